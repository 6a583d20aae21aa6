"""Digests of files."""

import hashlib
from pathlib import Path
from typing import Literal


def file_digest(path: Path, algorithm: Literal["blake2b", "sha256"] = "blake2b") -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
