"""Parameters of the model that transformers builds without memory, and what peft adapts of it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
)

from launcher.training.model_building import with_adapter
from planner.plan.schema import Plan


def model_types() -> Iterator[str]:
    """Yield the types that transformers builds a causal language model of, by name."""
    for model_type in sorted(CONFIG_MAPPING):
        with suppress(ImportError, ValueError):
            if CONFIG_MAPPING[model_type] in MODEL_FOR_CAUSAL_LM_MAPPING:
                yield model_type


def write_default(model_type: str, folder: Path) -> Any:
    """Write the default configuration of a type into a folder, and return it."""
    config = AutoConfig.for_model(model_type)
    config.save_pretrained(folder)
    return config


def built(folder: Path) -> Any:
    """Return the model of the configuration in a folder, on the meta device."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def num_params(model: Any) -> int:
    """Return the number of parameters, a tied one counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def trainable_params(model: Any, plan: Plan) -> int:
    """Return the number of parameters that the launcher would train of a fresh model."""
    adapted = with_adapter(plan, model)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)
