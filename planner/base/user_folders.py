"""The user's folders: home, paths that begin with ``~``, and the cache, for what is made or fetched
once and kept, in a folder that no other user fills."""

import os
import stat
from contextlib import suppress
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


def cache_directory() -> Path:
    """Return the folder for what is made once and kept, which XDG_CACHE_HOME can move.

    Raise ``InvalidRequestError`` if there is neither that nor a home folder, or if another user
    could have put there what is used from it.
    """
    root = os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache"
    folder = Path(root) / "tuneplan"
    with suppress(OSError):  # it is not there yet, or cannot be looked into
        _require_ours(folder, folder.stat())
    return folder


def _require_ours(folder: Path, status: os.stat_result) -> None:
    """Raise ``InvalidRequestError`` for a folder of another user or that every user may write.

    Root may use the folders of all: in a container the home of its user is mounted.
    """
    user = os.geteuid()
    if status.st_uid not in (0, user) and user != 0:
        why = Phrase("belongs to another user")
    elif status.st_mode & stat.S_IWOTH:
        why = Phrase("may be written by every user")
    else:
        return
    raise InvalidRequestError(
        Phrase(
            "the cache {folder} {why}, who could change what is trained: name another "
            "folder with XDG_CACHE_HOME, or make it yours alone",
            folder=folder,
            why=why,
        )
    )
