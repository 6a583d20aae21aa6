"""The user's home folder, and paths that begin with ``~``."""

import os
from pathlib import Path

from planner.base.errors import InvalidRequestError


def home_folder() -> Path:
    """Return the home folder; raise InvalidRequestError if the user has none.

    A container's user may have no entry in passwd. Libraries then write to a folder named ``~``.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise InvalidRequestError(
            f"there is no home folder: user {os.getuid()} has no entry in passwd, and HOME is not "
            "set. Set HOME to a folder that can be written"
        ) from error


def expanded(path: Path | str) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; raise InvalidRequestError if there is no
    such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidRequestError(
            f"{path}: there is no such home folder. Write the path without ~"
        ) from error
