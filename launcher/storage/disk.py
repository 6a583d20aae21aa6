"""What has to be on the disk, not in the system's memory alone."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder: a size alone does not say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
