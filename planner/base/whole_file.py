"""A text file that appears whole or not at all."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """A reader never sees half of it, and where writing fails what was there stays."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
