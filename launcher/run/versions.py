"""Versions of the packages that train, read from their metadata without an import."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "tuneplan",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "datasets",
    "tokenizers",
    "safetensors",
)


def package_versions() -> dict[str, str | None]:
    """Return the versions by package; None for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def python_version() -> str:
    """Return the version of this interpreter."""
    return platform.python_version()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
