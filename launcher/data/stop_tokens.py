"""The tokens at which a model's generation settings stop.

read: transformers 5.17 generation/utils.py, ``GenerationMixin.generate``: ``eos_token_id`` of
generation_config.json decides, and that of config.json where the former file is missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.storage.json_files import read_json


def stop_token_ids(checkpoint: Path) -> tuple[int, ...]:
    """Return the ids at which ``generate`` stops, or none if the folder does not name any."""
    settings = _read(checkpoint / "generation_config.json")
    if settings is None:
        settings = _read(checkpoint / "config.json") or {}
        settings = {**settings.get("text_config", {}), **settings}
    return as_ids(settings.get("eos_token_id"))


def as_ids(value: object) -> tuple[int, ...]:
    """Return one id or a list of them as a tuple.

    >>> as_ids(2), as_ids([1, 106]), as_ids(None)
    ((2,), (1, 106), ())
    """
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int))


def vocabulary_rows(checkpoint: Path) -> int | None:
    """Return the rows of the model's embedding, or None if config.json does not say."""
    config = _read(checkpoint / "config.json") or {}
    rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return rows if isinstance(rows, int) else None


def _read(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    content: Any = read_json(path)
    return content if isinstance(content, dict) else None
