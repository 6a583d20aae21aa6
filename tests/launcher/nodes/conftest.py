"""Two nodes for the tests that need them; skipped with the reason where there are none."""

from collections.abc import Iterator

import pytest

from benchmarks.nodes.namespaces import Namespace, two_nodes, why_not
from tests.launcher.conftest import folder, tiny_checkpoint

__all__ = ["folder", "tiny_checkpoint"]


@pytest.fixture
def nodes() -> Iterator[tuple[Namespace, Namespace]]:
    for package in ("trl", "deepspeed"):
        pytest.importorskip(package)
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with two_nodes() as both:
        yield both
