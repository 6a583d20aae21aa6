"""Tests that need torchao, which has an environment of its own (``make check``): transformers would
import it into every process of all others."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest

from planner.plan.optimizer_presets import optimizers

NEEDS_TORCHAO = [
    pytest.mark.filterwarnings("ignore"),  # what the compiler says of itself
    pytest.mark.torchao,
    pytest.mark.skipif(
        find_spec("torchao") is None, reason="needs torchao: make check runs it in .venv-torchao"
    ),
]


def needs_torchao(test: Any) -> Any:
    """Mark one test."""
    for mark in NEEDS_TORCHAO:
        test = mark(test)
    return test


def marked(cases: Iterable[Any]) -> list[Any]:
    """Cases of a test, each an optimizer's name or what begins with one, torchao's marked."""
    listed = ((each,) if isinstance(each, str) else each for each in cases)
    of_torchao = [
        name for name, optimizer in optimizers().items() if optimizer.library == "torchao"
    ]
    return [
        pytest.param(*case, marks=NEEDS_TORCHAO if case[0] in of_torchao else ()) for case in listed
    ]
