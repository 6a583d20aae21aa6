"""JSON of unknown origin as values: bounded in depth and in its numbers."""

import json
import re
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError, reason_of
from planner.base.phrases import Phrase
from planner.base.text_files import DEEPEST, bracket_depth

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def parse_json(text: str, path: Path) -> Any:
    """Return the value that a JSON text holds; ``path`` is for messages only.

    Raise InvalidFileError for what is not JSON (NaN and lone surrogates are not; Infinity is read
    as Python writes it), for digits that no 64-bit float holds, and for nesting deeper than
    ``DEEPEST`` of planner/base/text_files.py.
    """
    if bracket_depth(match[0] for match in _STRING_OR_BRACKET.finditer(text)) > DEEPEST:
        raise InvalidFileError(
            path, None, Phrase("is nested deeper than {deepest} levels", deepest=DEEPEST)
        )
    try:
        content = json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError as error:
        raise InvalidFileError(
            path, error.lineno, Phrase("not JSON: {msg}", msg=error.msg)
        ) from error
    except ValueError as error:
        raise InvalidFileError(
            path, None, Phrase("not JSON: {error}", error=reason_of(error))
        ) from error
    if r"\u" in text and not _is_encodable(content):
        raise InvalidFileError(
            path, None, Phrase("not JSON: a text in it has half a surrogate pair")
        )
    return content


def _constant(name: str) -> float:
    """Return an infinity: transformers writes them into ``config.json``, as limits of Mamba's."""
    if name == "NaN":
        raise ValueError(Phrase("{name} is not a number of JSON's", name=name))
    return float(name)


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(Phrase("the number {digits} is too large", digits=digits[:20]))
    return number


def _int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(Phrase("the number {digits}... is too large", digits=digits[:20]))
    return int(digits)


def _is_encodable(content: Any) -> bool:
    """Whether every text of a value can be written as UTF-8."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
