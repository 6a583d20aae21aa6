"""``config.json`` of Hugging Face and THUDM checkpoints -> :class:`ModelSpec`, and back.

The only place that knows other people's names for a shape. Defaults are those of the
configuration classes in transformers 5.23, and of ``configuration_chatglm.py`` at
THUDM/chatglm3-6b for ``chatglm``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import InvalidFileError
from planner.expert_config import experts_to_config
from planner.model import Mlp, ModelSpec, Norms, Rotary
from planner.presets import ModelPreset, Source
from planner.spec import read_text

NATIVE_CLASSES = {
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


WINDOWED = ("mistral", "mixtral", "phi3")
"""Architectures whose every layer has the window that ``sliding_window`` states."""


@dataclass(frozen=True, slots=True)
class _Config:
    """The keys of one file, read strictly; ``null`` means that a key was left out."""

    content: Mapping[str, Any]
    path: Path

    def error(self, reason: str) -> InvalidFileError:
        return InvalidFileError(self.path, None, reason)

    def value(self, key: str, default: object) -> object:
        found = self.content.get(key)
        if found is None and default is None:
            raise self.error(f"the key {key!r} is missing. Copy the model's own config.json here")
        return default if found is None else found

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"{key}: {value!r} is not a whole number above 0")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key}: {value!r} is neither true nor false")
        return value

    def fraction(self, key: str, default: float) -> float:
        value = self.value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self.error(f"{key}: {value!r} is not a number from 0 to 1")
        return float(value)

    def text(self, key: str) -> str:
        value = self.value(key, None)
        if not isinstance(value, str):
            raise self.error(f"{key}: {value!r} is not text")
        return value

    def part(self, key: str) -> "_Config":
        """The keys inside ``key``, none where it is absent."""
        value = self.value(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key}: {value!r} is not a mapping")
        return _Config(value, self.path)

    def window(self, ordinary: int | None) -> int | None:
        """Where the key is there, ``null`` means no window."""
        if self.content.get("sliding_window", ordinary) is None:
            return None
        return self.integer("sliding_window", ordinary)

    def refuse(self, key: str, why: str, ordinary: object = False) -> None:
        """Shapes that :class:`ModelSpec` cannot describe must not be miscounted."""
        if self.value(key, ordinary) != ordinary:
            raise self.error(f"{key}: {self.content[key]!r} cannot be planned: {why}")


def _llama(config: _Config) -> ModelSpec:
    config.refuse("mlp_bias", "the parameter count knows no biases in the MLP")
    bias = config.flag("attention_bias")
    return _decoder(config, "llama", qkv_bias=bias, output_bias=bias)


def _mistral(config: _Config) -> ModelSpec:
    return _decoder(config, "mistral", key_value_heads=8, sliding_window=4096)


def _qwen2(config: _Config) -> ModelSpec:
    return _decoder(config, "qwen2", key_value_heads=32, qkv_bias=True)


def _qwen3(config: _Config) -> ModelSpec:
    config.refuse("use_sliding_window", "its mask is not in the ledger")
    bias = config.flag("attention_bias")
    return _decoder(
        config,
        "qwen3",
        key_value_heads=32,
        head_dim=128,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )


def _phi3(config: _Config) -> ModelSpec:
    for key in ("resid_pdrop", "embd_pdrop", "attention_dropout"):
        config.refuse(key, "dropout in the model is not in the ledger", ordinary=0.0)
    return _decoder(config, "phi3", fused_qkv=True, mlp="fused-swiglu", rotary="joined")


def _glm(config: _Config, model_type: str = "glm", norms: Norms = "before") -> ModelSpec:
    return _decoder(
        config,
        model_type,
        key_value_heads=2,
        head_dim=128,
        rotary_fraction=0.5,
        qkv_bias=config.flag("attention_bias", default=True),
        mlp="fused-swiglu",
        rotary="interleaved",
        norms=norms,
    )


def _glm4(config: _Config) -> ModelSpec:
    return _glm(config, "glm4", norms="around")


def _decoder(
    config: _Config,
    model_type: str,
    *,
    key_value_heads: int | None = None,
    head_dim: int | None = None,
    rotary_fraction: float = 1.0,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp: Mlp = "swiglu",
    sliding_window: int | None = None,
    rotary: Rotary = "halves",
    norms: Norms = "before",
    qk_norm: bool = False,
    fused_qkv: bool = False,
) -> ModelSpec:
    """The names that Llama's descendants share; the keywords are what a class assumes or fixes."""
    hidden_size = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    if key_value_heads is None or "num_key_value_heads" in config.content:
        key_value_heads = heads
    rotary_fraction = config.fraction("partial_rotary_factor", rotary_fraction)
    rope = config.part("rope_parameters")
    return ModelSpec(
        model_type=model_type,
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=config.integer("num_key_value_heads", key_value_heads),
        head_dim=config.integer("head_dim", head_dim or hidden_size // heads),
        vocab_size=config.integer("vocab_size"),
        max_position_embeddings=config.integer("max_position_embeddings"),
        sliding_window=config.window(sliding_window) if model_type in WINDOWED else None,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp=mlp,
        rotary_fraction=rope.fraction("partial_rotary_factor", rotary_fraction),
        rotary=rotary,
        norms=norms,
        qk_norm=qk_norm,
        fused_qkv=fused_qkv,
    )


def _chatglm(config: _Config) -> ModelSpec:
    """ChatGLM2, ChatGLM3 and GLM-4, whose weights transformers' GLM class holds exactly."""
    config.refuse("add_bias_linear", "the GLM class has biases for query, key and value only")
    config.refuse("rmsnorm", "the GLM class has no LayerNorm", ordinary=True)
    config.refuse("quantization_bit", "its weights are quantized. Use the original", ordinary=0)
    if not config.flag("multi_query_attention"):
        raise config.error("multi_query_attention: it must be true for the GLM class")
    return ModelSpec(
        model_type="glm",
        num_layers=config.integer("num_layers"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("ffn_hidden_size"),
        num_attention_heads=config.integer("num_attention_heads"),
        num_key_value_heads=config.integer("multi_query_group_num", 1),
        head_dim=config.integer("kv_channels"),
        vocab_size=config.integer("padded_vocab_size"),
        max_position_embeddings=config.integer("seq_length"),
        qkv_bias=config.flag("add_qkv_bias"),
        tied_embeddings=config.flag("tie_word_embeddings"),
        mlp="fused-swiglu",
        rotary_fraction=0.5,
        rotary="interleaved",
    )


_READERS: Mapping[str, Callable[[_Config], ModelSpec]] = {
    "chatglm": _chatglm,
    "glm": _glm,
    "glm4": _glm4,
    "llama": _llama,
    "mistral": _mistral,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}


def spec_from_config(content: Mapping[str, Any], path: Path) -> ModelSpec:
    """The shape that a ``config.json`` states; ``path`` is for messages only."""
    config = _Config(content, path)
    model_type = config.text("model_type")
    if model_type not in _READERS:
        raise config.error(
            f"model_type: {model_type!r} is an architecture that cannot be planned. "
            f"Take one of {', '.join(_READERS)}"
        )
    if content.get("quantization_config"):
        raise config.error("quantization_config: its weights are quantized. Use the original")
    try:
        return _READERS[model_type](config)
    except ValidationError as error:
        raise config.error(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """transformers' keys of a shape: what its configuration class is built from."""
    config: dict[str, Any] = {
        "model_type": spec.model_type,
        "num_hidden_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_position_embeddings,
        "tie_word_embeddings": spec.tied_embeddings,
        "pad_token_id": None,
    }
    if spec.model_type in ("llama", "qwen3", "qwen3_moe", "glm", "glm4"):
        config["attention_bias"] = spec.qkv_bias
    if spec.model_type in WINDOWED:
        config["sliding_window"] = spec.sliding_window
    if spec.rotary_fraction < 1:
        config["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": spec.rotary_fraction,
        }
    return config | experts_to_config(spec)


def load_model_dir(directory: Path) -> ModelPreset:
    """A checkpoint directory as if it were a preset; its published size is the computed one."""
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidFileError(
            directory, None, "holds no config.json. Name a model's directory or a preset"
        )
    spec = spec_from_config(_read_json(path), path)
    return ModelPreset(
        name=directory.resolve().name,
        hub_id=str(directory),
        source=Source(title="config.json", url=str(path)),
        native_class=NATIVE_CLASSES[spec.model_type],
        expected_params=spec.num_params,
        expected_params_source="Derived from the shape in config.json.",
        spec=spec,
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidFileError(path, error.lineno, f"not JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise InvalidFileError(path, None, "holds no keys. Copy the model's own config.json here")
    return content
