"""Checkpoints whose files hold quantized weights: none of them is planned.

What is planned is loaded in 16 bit, and QLoRA packs it while it loads. Weights that were packed
before are of other sizes, and transformers trains most of their formats not at all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase

QUANT_FILE = "hf_quant_config.json"
"""The file in which NVIDIA's ModelOpt says how it has quantized a checkpoint; config.json need not
say it. transformers does not read it."""
_KEYS = ("quantization_config", "compression_config")
UNDONE = {"gpt_oss": "mxfp4"}
"""Formats by architecture that the launcher undoes before it loads
(launcher/base_model/mxfp4.py)."""


def refuse_quantized(content: Mapping[str, Any], path: Path) -> None:
    """Raise InvalidFileError if a ``config.json`` says that the weights are quantized, be it for
    the whole model or for the text model inside a wrapper."""
    inside = content.get("text_config")
    for part in (content, inside if isinstance(inside, Mapping) else {}):
        for key in _KEYS:
            stated = part.get(key)
            if not stated:
                continue
            how = stated.get("quant_method") if isinstance(stated, Mapping) else None
            if how is None or how != UNDONE.get(str(content.get("model_type"))):
                raise _refusal(path, key, how, content)


def refuse_quantized_beside(stated: Any, path: Path, content: Mapping[str, Any]) -> None:
    """Raise InvalidFileError if the content of ``QUANT_FILE`` names a format of the weights;
    ``content`` is that of the config.json beside it."""
    inside = stated.get("quantization") if isinstance(stated, Mapping) else None
    how = inside.get("quant_algo") if isinstance(inside, Mapping) else None
    if how is not None:
        raise _refusal(path, "quantization", how, content)


def _refusal(path: Path, key: str, how: object, content: Mapping[str, Any]) -> InvalidFileError:
    named = f" ({str(how)[:40]})" if isinstance(how, str) and how.isprintable() else ""
    return InvalidFileError(
        path,
        None,
        Phrase(
            "{key}: its weights are quantized{named}, and only 16-bit weights are "
            "planned: take the 16-bit original{original}, which QLoRA packs into 4 bit "
            "by itself",
            key=key,
            named=named,
            original=_original(content, path),
        ),
    )


def _original(content: Mapping[str, Any], path: Path) -> str:
    """Return the name of the model that was quantized, if its configuration still has it."""
    kept = content.get("_name_or_path")
    name = kept.rstrip("/").rpartition("/")[2] if isinstance(kept, str) else ""
    is_another = name not in ("", ".", path.absolute().parent.name)
    return f" {name[:80]}" if is_another and name.isprintable() else ""
