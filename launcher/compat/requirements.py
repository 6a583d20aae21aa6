"""Packages that this distribution declares for training, beside what is installed.

setup.cfg is the home of the bounds; here they are read from the distribution's own metadata. The
upper ones are the first versions that the internals of launcher/compat/internals.py were not read
in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any, Literal

from planner.base.errors import InvalidRequestError

DISTRIBUTION = "tuneplan"
EXTRA = "train"
TORCHAO = "torchao"
"""Extra, and package, of two optimizers: transformers imports it into every process that has it."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this distribution."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


INSTALL = install_command(EXTRA)
_UPPER = ("<", "<=")

Standing = Literal["tested", "missing", "too_old", "newer_than_tested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One declared package and what is installed of it."""

    name: str
    bounds: str
    """Declared versions, as pip writes them: ``>=2.11,<2.14``."""
    installed: str | None
    """Version; None if it is not installed."""
    standing: Standing


def require_training_stack(task: str) -> None:
    """Raise ``InvalidRequestError`` if a task, such as ``--chat``, cannot import what it needs."""
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        raise InvalidRequestError(
            f"{task} needs {', '.join(missing)}, which is not installed: {INSTALL}"
        )


def declared_packages(extra: str = EXTRA) -> tuple[Package, ...]:
    """Return all packages that training, or another extra, needs, in their declared order.

    Empty if the distribution itself is not installed. Needs ``packaging``, which every part of the
    training stack brings.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return ()
    return tuple(_packages(lines, extra))


def _packages(lines: list[str], extra: str) -> Iterator[Package]:
    from packaging.requirements import Requirement

    for need in map(Requirement, lines):
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            installed = _installed(need.name)
            yield Package(
                name=need.name,
                bounds=",".join(sorted(map(str, need.specifier), reverse=True)),
                installed=installed,
                standing=_standing(need.specifier, installed),
            )


def _standing(bounds: Any, installed: str | None) -> Standing:
    """Compare a version with pip's specifiers: what is above an upper bound is not tested."""
    if installed is None:
        return "missing"
    broken = [bound for bound in bounds if not bound.contains(installed, prereleases=True)]
    if not broken:
        return "tested"
    return "newer_than_tested" if all(one.operator in _UPPER for one in broken) else "too_old"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
