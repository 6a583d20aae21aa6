"""Functions and values of a library that are replaced while a block runs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch


class Replacement(NamedTuple):
    """One attribute of a module or class, and the value that takes its place."""

    owner: Any
    name: str
    value: Any


@contextmanager
def replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Replace the attributes inside the block, and restore the library's own after it.

    Raises ``AttributeError`` if an owner has no attribute of that name.
    """
    with ExitStack() as stack:
        for owner, name, value in replacements:
            stack.enter_context(patch.object(owner, name, value))
        yield


def do_nothing(*_: Any, **__: Any) -> None:
    """Replace a function that only works on memory which exists already."""
