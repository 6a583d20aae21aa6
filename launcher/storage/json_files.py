"""JSON files, written whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError
from planner.base.output_file import write_whole
from planner.base.phrases import Phrase
from planner.base.text_files import read_text


def write_json(
    path: Path, content: Mapping[str, Any] | Sequence[Any], *, durable: bool = True
) -> None:
    """Replace a file's content, whole or not at all; ``durable`` content has reached the disk."""
    write_whole(path, json.dumps(content, indent=2) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's content; raise ``InvalidFileError`` with its line if it is not JSON."""
    try:
        content: dict[str, Any] = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidFileError(
            path, error.lineno, Phrase("is not JSON ({msg})", msg=error.msg)
        ) from error
    return content
