"""A file is written whole or not at all, and never over what a person wrote."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from planner.base.errors import InvalidRequestError, UnwritableError


def digest(body: str) -> str:
    """Enough to tell an edit, and quicker to import than a cryptographic one."""
    return f"{zlib.crc32(body.encode()):08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    option: str
    """That names it, for messages: ``-o``."""
    path: Path
    noun: str
    """What is written: ``a plan``."""
    is_untouched: Callable[[str], bool]
    """Whether a text is such a file as it was written."""
    force: bool

    def check(self) -> None:
        """Raises where something else is there."""
        named = f"{self.option} {self.path}"
        if self.path.is_dir():
            raise InvalidRequestError(f"{named} is a directory: name a file")
        if not self.force and self.path.exists() and not self._may_go():
            raise InvalidRequestError(
                f"{named}: that file was edited since it was written, or is not {self.noun}: "
                "name another, or replace it with --force"
            )

    def write(self, text: str) -> None:
        """Raises as ``check`` does, and where the file system refuses; then nothing is lost."""
        self.check()
        try:
            write_whole(self.path, text)
        except OSError as error:
            raise UnwritableError(self.option, self.path, error) from error

    def _may_go(self) -> bool:
        try:
            return self.is_untouched(self.path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            return False
        except OSError as error:
            raise UnwritableError(self.option, self.path, error) from error


def write_whole(path: Path, text: str) -> None:
    """A reader never sees half of it, and where writing fails what was there stays."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
