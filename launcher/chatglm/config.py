"""``config.json`` of a ChatGLM checkpoint, and that of transformers' GLM for the same model.

The defaults are those of ``configuration_chatglm.py`` at THUDM/chatglm3-6b.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.chatglm.layout import Shape
from launcher.storage.json_files import read_json
from planner.base.errors import InvalidFileError
from planner.base.output_file import write_whole
from planner.base.phrases import Phrase

ORIGIN = "chatglm_origin"
"""Key of a native ``config.json`` under which stands what converting back needs. transformers keeps
unknown keys, so it survives training, merging and saving."""

ROTARY_BASE = 10_000
STORED_DTYPE = "float16"

SIZES: Mapping[str, int | None] = {
    "num_layers": 28,
    "hidden_size": 4096,
    "ffn_hidden_size": 13_696,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "padded_vocab_size": None,
    "multi_query_group_num": 1,
    "seq_length": 2048,
}
"""Default of every size; None if the class's default is that of another model."""

NECESSARY: Mapping[str, tuple[Any, Any, str]] = {
    "multi_query_attention": (False, True, Phrase("query heads share their keys")),
    "add_bias_linear": (False, False, Phrase("only query, key and value have biases")),
    "rmsnorm": (True, True, Phrase("norms are RMSNorm")),
    "post_layer_norm": (True, True, Phrase("a norm stands before the head")),
    "apply_residual_connection_post_layernorm": (
        False,
        False,
        Phrase("the residual is not normalised"),
    ),
    "original_rope": (True, True, Phrase("neighbouring pairs are rotated")),
    "tie_word_embeddings": (False, False, Phrase("the head is a matrix of its own")),
    "quantization_bit": (
        0,
        0,
        Phrase("weights are in 16 or 32 bit. Take the unquantized checkpoint"),
    ),
    "pre_seq_len": (None, None, Phrase("there is no prefix encoder (P-Tuning)")),
}
"""Default of a key, the only value that GLM's class can compute, and what it means."""

_INTERPOLATED = re.compile(r"/\s*self\.rope_ratio")
"""Code of chatglm2-6b-32k, which divides positions; other models multiply the base."""


def is_original(folder: Path) -> bool:
    """Return whether a folder's ``config.json`` is in ChatGLM's own layout."""
    return _model_type(folder) == "chatglm"


def origin(folder: Path) -> dict[str, Any] | None:
    """Return what a native folder keeps of the ChatGLM checkpoint it was made from, if any."""
    if _model_type(folder) != "glm":
        return None
    kept: dict[str, Any] | None = read_config(folder).get(ORIGIN)
    return kept


def _model_type(folder: Path) -> object:
    return read_config(folder).get("model_type") if (folder / "config.json").is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's ``config.json``; raise ``InvalidFileError`` if it has no keys."""
    path = folder / "config.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidFileError(
            path, None, Phrase("has no keys. Copy the model's own config.json here")
        )
    return content


def read_shape(config: Mapping[str, Any], path: Path) -> Shape:
    """Return the sizes that decide the shape of every tensor.

    Raise ``InvalidFileError`` for a model that GLM's class cannot compute.
    """
    if config.get("position_encoding_2d") or "inner_hidden_size" in config:
        raise InvalidFileError(path, None, Phrase("is the first ChatGLM-6B, which is not a GLM"))
    for key, (default, needed, meaning) in NECESSARY.items():
        value = config.get(key, default)
        if value != needed:
            raise InvalidFileError(
                path,
                None,
                Phrase(
                    "{key} is {value!r}; in GLM {meaning}", key=key, value=value, meaning=meaning
                ),
            )
    sizes = {key: _size(config, key, path) for key in SIZES}
    return Shape(
        num_layers=sizes["num_layers"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["ffn_hidden_size"],
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes["multi_query_group_num"],
        head_dim=sizes["kv_channels"],
        vocab_size=sizes["padded_vocab_size"],
        qkv_bias=bool(config.get("add_qkv_bias", False)),
    )


def _size(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key, SIZES[key])
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidFileError(
            path,
            None,
            Phrase("{key}: {value!r} is not a whole number above 0", key=key, value=value),
        )
    return value


def native_config(
    config: Mapping[str, Any], shape: Shape, *, interpolated: bool, carried: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the configuration of transformers' GLM.

    ``interpolated`` is whether positions are divided by ``rope_ratio``. ``carried`` is kept under
    :data:`ORIGIN` for converting back.
    """
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "attention_bias": shape.qkv_bias,
        "attention_dropout": config.get("attention_dropout", 0.0),
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5),
        "max_position_embeddings": config.get("seq_length", SIZES["seq_length"]),
        "rope_parameters": _rotary(config.get("rope_ratio", 1), interpolated),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": config.get("pad_token_id", 0),
        "dtype": config.get("torch_dtype", STORED_DTYPE),
        ORIGIN: carried,
    }


def original_config(native: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the original configuration, with the dtype of the weights if training changed it."""
    dtype = read_config(native).get("dtype")
    unchanged = dtype in (None, config.get("torch_dtype", STORED_DTYPE))
    return dict(config) if unchanged else {**config, "torch_dtype": dtype}


def _rotary(ratio: float, interpolated: bool) -> dict[str, Any]:
    """Return GLM's rotary settings: neighbouring pairs in the first half of a head are rotated."""
    if interpolated and ratio != 1:
        kind = {"rope_type": "linear", "factor": float(ratio), "rope_theta": float(ROTARY_BASE)}
    else:
        kind = {"rope_type": "default", "rope_theta": float(ROTARY_BASE * ratio)}
    return {**kind, "partial_rotary_factor": 0.5}


def divides_positions(folder: Path) -> bool:
    """Return whether the folder's code, read as text, divides positions by ``rope_ratio``."""
    path = folder / "modeling_chatglm.py"
    return path.is_file() and bool(_INTERPOLATED.search(path.read_text(encoding="utf-8")))


def write_config(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a folder's ``config.json``."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", text)
