"""Service for models that the planner has no forward pass for: their shape and their steps.

``python -m launcher.rehearsal.trace_service`` reads one JSON request per line and prints one line
of JSON for it, or {"error": REASON}:

    {"shape": CONFIG}    a model's matrices by layer and its counts, from its config.json
    {"trace": PLAN}      bytes by phase and part of a step of that plan, on fake tensors
"""

import json
import sys
from typing import Any

import torch
from msgspec import convert
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from launcher.compat.transformers import stacked_parameters, supports_sdpa
from launcher.compat.trl import takes_fused_head
from launcher.rehearsal.rehearse import quiet_libraries, traced
from launcher.run.answer_pipe import answer_pipe
from planner.base.errors import UserError
from planner.plan.schema import Plan

UNLIMITED = 2**20
"""Positions of a model whose configuration has no limit, such as one without attention."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = answer_pipe()
    with quiet_libraries():
        for line in sys.stdin:
            print(json.dumps(_answer(json.loads(line))), file=answers)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer; any error, of a model that nobody has tried, becomes its reason."""
    try:
        if "shape" in request:
            return {"shape": shape(request["shape"])}
        return {"phases": traced(convert(request["trace"], Plan)).phases}
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return {"error": reason if isinstance(error, UserError) else reason[:300]}


def shape(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the planner counts of a model: sizes in elements, matrices in forward order.

    Raises ``UserError`` if transformers does not know the architecture.
    """
    model_type = content["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UserError(f"the installed transformers does not know the architecture {model_type!r}")
    config = AutoConfig.for_model(**content)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    known = config.to_dict()
    heads = _count(known, "num_attention_heads", 1)
    return {
        "native_class": type(model).__name__,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_params": table.numel(),
        "head_params": 0 if head is table else head.numel(),
        "hidden_size": table.shape[1],
        "vocab_size": table.shape[0],
        "intermediate_size": _count(known, "intermediate_size", table.shape[1]),
        "max_position_embeddings": _count(known, "max_position_embeddings", UNLIMITED),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(known, "num_key_value_heads", heads),
        "head_dim": _count(known, "head_dim", table.shape[1] // heads),
        "attention": "sdpa" if supports_sdpa(model) else "eager",
        "loss": "fused" if takes_fused_head(model) else "standard",
        "stacked_params": max((one.numel() for one in stacked_parameters(model)), default=0),
        "layers": [_layer(layer) for layer in _layers(model)],
    }


def _count(known: dict[str, Any], key: str, otherwise: int) -> int:
    """Return a setting that all layers share, if the architecture has it under its usual name."""
    value = known.get(key)
    return value if isinstance(value, int) and value > 0 else otherwise


def _layers(model: Any) -> list[torch.nn.Module]:
    """Return the longest list of modules, which is the stack of decoder layers."""
    lists = [list(item) for item in model.modules() if isinstance(item, torch.nn.ModuleList)]
    if not lists:
        raise UserError("the model has no list of layers")
    return max(lists, key=len)


def _layer(layer: torch.nn.Module) -> dict[str, Any]:
    return {
        "num_params": sum(parameter.numel() for parameter in layer.parameters()),
        "linears": [
            {
                "name": name.rpartition(".")[2],
                "in_features": module.in_features,
                "out_features": module.out_features,
                "bias": module.bias is not None,
            }
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        ],
    }


if __name__ == "__main__":
    main()
