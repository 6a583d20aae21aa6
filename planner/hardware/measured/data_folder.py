"""The user's data: what was measured on this machine and is kept, which no program can make
again elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path

from planner.base.errors import InvalidRequestError
from planner.base.home_folder import home_folder

VARIABLE = "TUNEPLAN_DATA"
"""The environment variable that names another folder, or ``none``."""
KEEP_NOTHING = "none"


def data_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder for measurements and for records of runs; None where nothing is to be kept
    or read: on request, or without a home folder.

    >>> data_folder({"XDG_DATA_HOME": "/data"}), data_folder({"TUNEPLAN_DATA": "none"})
    (PosixPath('/data/tuneplan'), None)
    """
    named = environ.get(VARIABLE)
    if named == KEEP_NOTHING:
        return None
    if named:
        return Path(named)
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "tuneplan"
    try:
        return home_folder() / ".local" / "share" / "tuneplan"
    except InvalidRequestError:
        return None
