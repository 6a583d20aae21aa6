"""Every error a user can cause and act on.

* UserError                     exit 2  the request was wrong or cannot be met
  - UnknownNameError            a model, card or recipe that no preset has
  - InvalidFileError            a file that breaks its schema: file, line, key, reason
    . NoFormulasError           a model that can be traced but not computed
  - InvalidRequestError         options that make no sense, alone or together
  - NothingFitsError            every candidate is over the memory budget
  - UnwritableError             the result cannot be written
  - ExhaustedError              the system has no more room, files or processes for us

Anything else that escapes is a bug and keeps its traceback.
"""

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

from planner.base.phrases import Joined, Phrase

MAX_NAMES_SHOWN = 24


class UserError(Exception):
    """Base class: the command line prints the message on one line, without a traceback.

    Messages name what strangers' files hold: characters that would begin another line or control
    the terminal are escaped.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
        self.message = message
        """The message as it was made, which may be said in another language."""


def one_line(text: str) -> str:
    r"""Return a text with an escape for every character that is no glyph and no space.

    >>> one_line("a\nb \x1b[2J \u3000 é")
    'a\\nb \\x1b[2J \u3000 é'
    """
    if text.isprintable():
        return text
    import unicodedata  # for names with a character that is none

    return "".join(
        each if each.isprintable() or unicodedata.category(each) == "Zs" else repr(each)[1:-1]
        for each in text
    )


def reason_of(error: Exception) -> str:
    """Return what an error says; as a phrase if it was made of one."""
    said = error.message if isinstance(error, UserError) else next(iter(error.args), None)
    return said if isinstance(said, Phrase) else str(error)


def did_you_mean(name: str, known: Iterable[str], *, max_shown: int = MAX_NAMES_SHOWN) -> str:
    """Return the nearest known name as a question, or all names if none is near and they are few.

    The text is empty if none is near and there are more than ``max_shown`` names.
    """
    names = sorted(known)
    from difflib import get_close_matches  # only a name that is unknown needs it

    nearest = get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if nearest:
        return Phrase("Did you mean {name!r}?", name=nearest[0])
    if 0 < len(names) <= max_shown:
        return Phrase("Known: {names}.", names=", ".join(names))
    return ""


class UnknownNameError(UserError):
    """A name that no preset has; the message suggests the nearest one, or those in ``nearest``."""

    def __init__(
        self, noun: str, name: str, known: Iterable[str], *, see: str, nearest: Sequence[str] = ()
    ) -> None:
        self.question = _question(nearest) or did_you_mean(name, known)
        super().__init__(
            Phrase(
                "no {noun} is named {name!r}. {hint}",
                noun=noun,
                name=name,
                hint=self.question or Phrase("{see} shows all.", see=see),
            )
        )


def _question(names: Sequence[str]) -> str:
    """Return the names as a question; nothing where there is none."""
    if not names:
        return ""
    *others, last = map(repr, names)
    choices = Joined(Phrase(" or "), filter(None, [", ".join(others), last]))
    return Phrase("Did you mean {choices}?", choices=choices)


class InvalidFileError(UserError):
    """A file that cannot be used as it is; the message starts with ``file:line:``."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        place = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(Joined(": ", [place, reason]))
        self.reason = reason


class NoFormulasError(InvalidFileError):
    """A model's configuration that no forward pass here mirrors; the model may be traced."""


class InvalidRequestError(UserError):
    """Options that contradict each other or the machine; the message says which and what to do."""


class UntraceableError(InvalidRequestError):
    """A method whose steps cannot be traced on a model without formulas; others may be."""


class NothingFitsError(UserError):
    """No candidate is within the budget; the message names the shortfall and a remedy."""


class UnwritableError(UserError):
    """A result that cannot be written; the message names the option that chooses another place."""

    def __init__(self, option: str, path: Path, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(
            Phrase(
                "cannot write {path}: {reason}. Choose another place with {option}.",
                path=path,
                reason=reason,
                option=option,
            )
        )


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a write that has no room: a full disk, a quota, ``ulimit -f``."""
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, Phrase("Make room, and repeat the command.")),
    errno.EMFILE: Phrase("Raise the limit, and repeat the command: ulimit -n 4096"),
    errno.ENFILE: Phrase("End other programs, and repeat the command."),
    errno.EAGAIN: Phrase("Raise the limit of processes, and repeat the command: ulimit -u"),
    errno.ENOMEM: Phrase(
        "Raise the limit of memory or end other programs, and repeat the command."
    ),
}


class ExhaustedError(UserError):
    """Something that the system has no more of for this process: room on a disk, open files."""


def exhausted(error: OSError) -> ExhaustedError | None:
    """Return the error for people if the system had no more of something; None for any other."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    place = f"{error.filename}: " if error.filename is not None else ""
    return ExhaustedError(Joined("", [f"{place}{error.strerror}. ", remedy]))
