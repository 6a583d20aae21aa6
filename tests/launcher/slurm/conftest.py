"""One Slurm for all tests here."""

from collections.abc import Iterator

import pytest

from tests.launcher.conftest import folder, launcher, tiny_checkpoint
from tests.launcher.slurm.cluster import Cluster, slurm

__all__ = ["cluster", "folder", "launcher", "started", "tiny_checkpoint"]


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Where this process is: its calls of Slurm's commands reach the controller."""
    monkeypatch.setenv("SLURM_CONF", str(started.configuration))
    with started.entered():
        yield started
