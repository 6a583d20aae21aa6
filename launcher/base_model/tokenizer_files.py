"""A model's tokenizer without the weights, which planning does not need."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from launcher.base_model.find_checkpoint import (
    PACKAGED_MODELS,
    TOKENIZER_FILES,
    ModelNotFoundError,
    has_tokenizer,
    modelscope_snapshot,
    network_errors,
    require_modelscope,
    why_not_from_hub,
)
from launcher.base_model.gguf import gguf_file_of
from launcher.storage.digest import file_digest
from launcher.storage.hub_names import names_a_folder
from launcher.storage.regular_files import require_regular_files
from planner.base.phrases import Joined, Phrase
from planner.base.user_folders import expanded
from planner.models.hub_config import uses_modelscope
from planner.plan.schema import ModelSection

WANTED = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.jinja", "config.json")
"""Patterns of the files that decide how a tokenizer works."""


@dataclass(frozen=True, slots=True)
class TokenizerPlace:
    """Where a tokenizer's files are, and what identifies it."""

    folder: Path
    options: Mapping[str, str]
    """Options of ``from_pretrained``."""
    identity: Mapping[str, str]
    """Digests of its files, or the version of its package, by name."""


def find_tokenizer(model: ModelSection) -> TokenizerPlace:
    """Return the place of the model's tokenizer, which is fetched if need be.

    Raise ``ModelNotFoundError`` if it cannot be had.
    """
    source = expanded(model.source)
    if source.is_dir():
        return _in_folder(source)
    if names_a_folder(model.source):
        raise ModelNotFoundError(
            Phrase("model folder {source} does not exist", source=model.source)
        )
    if uses_modelscope(os.environ):
        require_modelscope(model)
        return _in_folder(modelscope_snapshot(model, WANTED))
    kept = _snapshot(model, local_files_only=True)
    if kept is not None:
        return _in_folder(kept)
    reason = why_not_from_hub(model)
    fetched = _snapshot(model, local_files_only=False) if reason is None else None
    if fetched is not None:
        return _in_folder(fetched)
    package = PACKAGED_MODELS.get(model.source)
    if package is None or find_spec(package) is None:
        raise ModelNotFoundError(
            Joined(": ", [model.source, reason or Phrase("it has no tokenizer on the hub")])
        )
    file = gguf_file_of(package)
    return TokenizerPlace(file.parent, {"gguf_file": file.name}, {package: version(package)})


def load(place: TokenizerPlace) -> Any:
    """Return the tokenizer of a place, as :func:`fast_tokenizer` does."""
    return fast_tokenizer(place.folder, **place.options)


def fast_tokenizer(folder: Path, **options: str) -> Any:
    """Return the folder's tokenizer, loaded by transformers; ``options`` are its own.

    Raise ``ModelNotFoundError`` if its files are broken, or if it has no ``tokenizer.json``.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except ImportError:
        raise
    except Exception as error:  # transformers and tokenizers raise whatever the bytes lead to
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelNotFoundError(
            Phrase(
                "the tokenizer in {folder} cannot be loaded ({why}). Fetch its files again",
                folder=folder,
                why=why,
            )
        ) from error
    if not tokenizer.is_fast:
        raise ModelNotFoundError(
            Phrase("{folder} has no fast tokenizer (tokenizer.json)", folder=folder)
        )
    return tokenizer


def _in_folder(folder: Path) -> TokenizerPlace:
    require_regular_files(folder)
    if not has_tokenizer(folder):
        raise ModelNotFoundError(
            Phrase(
                "{folder} has no tokenizer ({tokenizer_files})",
                folder=folder,
                tokenizer_files=" or ".join(TOKENIZER_FILES),
            )
        )
    files = sorted({path for pattern in WANTED for path in folder.glob(pattern)})
    return TokenizerPlace(folder, {}, {path.name: file_digest(path) for path in files})


def _snapshot(model: ModelSection, *, local_files_only: bool) -> Path | None:
    """Return the folder of the tokenizer's files in the hub's cache; None if they are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    missing: tuple[type[Exception], ...] = (LocalEntryNotFoundError, *network_errors())
    try:
        folder = snapshot_download(
            model.source,
            revision=model.revision,
            allow_patterns=list(WANTED),
            local_files_only=local_files_only,
        )
    except missing:
        return None
    return Path(folder) if has_tokenizer(Path(folder)) else None
