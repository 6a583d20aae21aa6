"""Files that are written whole or not at all, and never over what a person wrote."""

import errno
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from planner.base.errors import InvalidRequestError, UnwritableError
from planner.base.phrases import Phrase


def digest(body: str) -> str:
    """Return the CRC-32 of a text, which reveals an edit and is quick to import."""
    return f"{zlib.crc32(body.encode()):08x}"


class OutputFile(Struct, frozen=True, kw_only=True):
    """A file that an option names, and what may be replaced by it."""

    option: str
    """Name of the option, for messages: ``-o``."""
    path: Path
    noun: str
    """Name of what is written, for messages: ``a plan``."""
    is_untouched: Callable[[str], bool]
    """Function that returns whether a text is such a file, unedited."""
    force: bool
    """Whether a file that was edited, or is of another kind, is replaced too."""

    def check(self) -> None:
        """Raise ``InvalidRequestError`` if something is there that must not be replaced."""
        named = f"{self.option} {self.path}"
        if self.path.is_dir():
            raise InvalidRequestError(Phrase("{named} is a directory: name a file", named=named))
        if self.path.exists() and not self.path.is_file():
            raise InvalidRequestError(
                Phrase("{named} is a device or a pipe: name a file, or - to print", named=named)
            )
        if not self.force and self.path.exists() and not self._may_be_replaced():
            raise InvalidRequestError(
                Phrase(
                    "{named}: that file was edited since it was written, or is not {noun}: name "
                    "another, or replace it with --force",
                    named=named,
                    noun=self.noun,
                )
            )

    def write(self, text: str) -> None:
        """Write the file; raise as ``check`` does, or ``UnwritableError`` for the file system.

        After an error the file that was there is unchanged.
        """
        self.check()
        try:
            write_whole(self.path, text)
        except OSError as error:
            raise UnwritableError(self.option, self.path, error) from error

    def _may_be_replaced(self) -> bool:
        try:
            return self.is_untouched(self.path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            return False
        except OSError as error:
            raise UnwritableError(self.option, self.path, error) from error


def write_whole(path: Path, text: str, *, durable: bool = True) -> None:
    """Put ``text`` into a file as UTF-8, replacing it, as ``whole_file`` does."""
    with whole_file(path, durable=durable) as file:
        file.write(text.encode())


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a new file to fill, which takes the place of ``path`` when the block has ended.

    A reader sees the old content or the new, never a part; if the block raises, the old content
    stays. ``durable`` content has reached the disk by then. The new file has the permissions of
    the old one. It is filled in the same folder under a name that nobody can know before, so two
    writers never share one and no link is followed.
    """
    partial = path.with_name(f".{path.name}.{unguessable()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _keep_permissions(descriptor, path)
            yield file
            if durable:
                file.flush()
                os.fsync(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        flush(path.parent)


def unguessable() -> str:
    """Return 16 characters for a name in a folder where other users may write."""
    return os.urandom(8).hex()


def flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system has no such call for folders
            raise
    finally:
        os.close(descriptor)


def _keep_permissions(descriptor: int, path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        os.fchmod(descriptor, stat.S_IMODE(mode))
