"""Versions of tuneplan and of the packages that train, from their metadata: nothing is imported."""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

DISTRIBUTION = "tuneplan"
TRAINING = 'extra == "train"'


def version_text() -> str:
    """Return the lines of ``--version``: tuneplan, then each training package that is installed."""
    own = _version(DISTRIBUTION)
    lines = [f"{DISTRIBUTION} {own or '(not installed)'}, Python {platform.python_version()}"]
    installed = {name: found for name in training_packages() if (found := _version(name))}
    if not installed and own is not None:
        lines.append(f"training packages: none (pip install '{DISTRIBUTION}[train]')")
    return "\n".join([*lines, *(f"{name} {found}" for name, found in installed.items())])


def training_packages() -> list[str]:
    """Return the packages that training needs, as this distribution declares them; none where it is
    not installed itself."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    names = (re.match(r"[\w.-]+", line) for line in lines if line.endswith(TRAINING))
    return [name[0] for name in names if name is not None]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
