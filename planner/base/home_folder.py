"""The user's home folder, and paths that begin with ``~``."""

import os
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase


def home_folder() -> Path:
    """Return the home folder; raise InvalidRequestError if the user has none.

    A container's user may have no entry in passwd. Libraries then write to a folder named ``~``.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise InvalidRequestError(
            Phrase(
                "there is no home folder: user {user} has no entry in passwd, and HOME is "
                "not set. Set HOME to a folder that can be written",
                user=os.getuid(),
            )
        ) from error


def expanded(path: Path | str) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; raise InvalidRequestError if there is no
    such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidRequestError(
            Phrase("{path}: there is no such home folder. Write the path without ~", path=path)
        ) from error
