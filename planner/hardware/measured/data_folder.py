"""The user's data: what was measured on this machine and is kept, which no program can make
again elsewhere."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import to_builtins

from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.output_file import write_whole
from planner.base.strict_yaml import Spec, SpecT, read_spec
from planner.base.user_folders import home_folder

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


def kept_records(
    kind: type[SpecT], folder_name: str, *, newest: int | None = None
) -> list[tuple[Path, SpecT]]:
    """Return the records of a folder with their files, by name; of many, the ``newest`` last ones.

    A file of another format is left out: another version of this program wrote it.
    """
    folder = data_folder()
    files = [] if folder is None else sorted((folder / folder_name).glob("*.json"))
    found = []
    for file in files if newest is None else files[-newest:]:
        try:
            found.append((file, read_spec(kind, file)))
        except InvalidFileError:
            continue
    return found


def keep_record(record: Spec, folder_name: str, name: str) -> Path | None:
    """Write a record whole; return its file, None if nothing is to be kept."""
    folder = data_folder()
    if folder is None:
        return None
    file = folder / folder_name / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(to_builtins(record), indent=1) + "\n")
    return file
