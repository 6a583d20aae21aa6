"""``config.json`` of Hugging Face and THUDM checkpoints -> :class:`ModelSpec`, and back.

The keys of each line of architectures are read in planner/models/architectures. Defaults are those
of the configuration classes in transformers 5.23, and of ``configuration_chatglm.py`` at
THUDM/chatglm3-6b for ``chatglm``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from planner.base.errors import NoFormulasError, reason_of
from planner.base.phrases import Phrase
from planner.models.architectures import (
    deepseek,
    gemma,
    gemma4,
    glm,
    gpt,
    gpt_fused,
    gpt_learned,
    granite,
    llama,
    llama4,
    minicpm,
    mixture,
    neighbours,
    olmo,
    smollm,
)
from planner.models.architectures.keys import Architecture, Config
from planner.models.architectures.recurrent import hybrid, lfm2, qwen3_5
from planner.models.model_spec import ModelSpec
from planner.models.stored_quantization import refuse_quantized
from planner.models.traced_model import TracedSpec
from planner.plan.bounds import MOST_LAYERS

ARCHITECTURES: Mapping[str, Architecture] = {
    **deepseek.ARCHITECTURES,
    **gemma.ARCHITECTURES,
    **gemma4.ARCHITECTURES,
    **glm.ARCHITECTURES,
    **gpt.ARCHITECTURES,
    **gpt_fused.ARCHITECTURES,
    **gpt_learned.ARCHITECTURES,
    **granite.ARCHITECTURES,
    **hybrid.ARCHITECTURES,
    **lfm2.ARCHITECTURES,
    **llama.ARCHITECTURES,
    **llama4.ARCHITECTURES,
    **minicpm.ARCHITECTURES,
    **mixture.ARCHITECTURES,
    **neighbours.ARCHITECTURES,
    **olmo.ARCHITECTURES,
    **qwen3_5.ARCHITECTURES,
    **smollm.ARCHITECTURES,
}
NATIVE_CLASSES = {
    name: each.native_class for name, each in ARCHITECTURES.items() if each.native_class
}


_MODEL_TYPE = re.compile(r"\w[\w.-]{,99}", re.ASCII)


def spec_from_config(content: Mapping[str, Any], path: Path) -> ModelSpec:
    """Return the shape that a ``config.json`` states; ``path`` is for messages only.

    Raises NoFormulasError where no forward pass here mirrors the model, InvalidFileError where a
    key is missing or wrong, or where the weights are quantized.
    """
    config = Config(content, path)
    model_type = config.text("model_type")
    if _MODEL_TYPE.fullmatch(model_type) is None:
        raise config.error(
            Phrase(
                "model_type: {model_type!r:.60} is not a name of an architecture",
                model_type=model_type,
            )
        )
    refuse_quantized(content, path)
    if model_type not in ARCHITECTURES:
        raise NoFormulasError(
            path, None, Phrase("model_type: no formulas for {model_type!r}", model_type=model_type)
        )
    for each in (content, content.get("text_config")):
        if isinstance(each, dict):
            _refuse_too_deep(config, each.get("num_hidden_layers"))
    try:
        spec = ARCHITECTURES[model_type].read(config)
    except ValueError as error:
        raise config.error(reason_of(error)) from error
    _refuse_too_deep(config, spec.num_layers)
    return spec


def _refuse_too_deep(config: Config, count: object) -> None:
    """Raise an error for more layers than are planned, before a reader lists them."""
    if isinstance(count, int) and count > MOST_LAYERS:
        raise config.error(
            Phrase(
                "it has {num_layers:,} layers, and at most {most_layers:,} are planned",
                num_layers=count,
                most_layers=MOST_LAYERS,
            )
        )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Return transformers' keys of a shape, which its configuration class is built from."""
    if isinstance(spec, TracedSpec):
        return dict(json.loads(spec.config))
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
    if spec.rotary_fraction < 1:
        config["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": spec.rotary_fraction,
        }
    architecture = ARCHITECTURES.get(spec.model_type)
    if architecture is None:
        return config
    if architecture.wraps is not None:
        text = config_from_spec(structs.replace(spec, model_type=architecture.wraps, beside=None))
        text["pad_token_id"] = 0  # which the wrapper puts in the place of images
        outside = {key: config[key] for key in ("model_type", "tie_word_embeddings")}
        return outside | {"text_config": text} | architecture.written(spec)
    shared = {key: value for key, value in config.items() if key not in architecture.derived}
    return shared | architecture.written(spec)
