"""Files that can be read to an end: a pipe would be waited for, and a device has no end."""

from pathlib import Path

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

_READ = ("*", "additional_chat_templates/*")
"""Patterns of what libraries read of a model's folder; links of the hub's cache lead out of it.

read: transformers/utils/hub.py at 5.23, list_repo_templates
"""


def require_regular(path: Path) -> None:
    """Raise ``InvalidFileError`` if there is a pipe, a device or a socket at a path."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InvalidFileError(path, None, Phrase("is a pipe, a device or a socket. Name a file"))


def require_regular_files(folder: Path) -> None:
    """Raise ``InvalidFileError`` if a model's folder holds a pipe, a device or a socket."""
    for pattern in _READ:
        for path in sorted(folder.glob(pattern)):
            require_regular(path)
