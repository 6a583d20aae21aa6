"""Service for models that the planner has no forward pass for: their shape and their steps.

``python -m launcher.rehearsal.trace_service`` reads one JSON request per line and prints one line
of JSON for it, or {"error": REASON}:

    {"shape": CONFIG}    a model's matrices by layer and its counts, from its config.json
    {"trace": PLAN}      bytes by phase and part of a step of that plan, on fake tensors

Libraries are imported when a request has come so far that it needs them: most configurations that
nothing can be built from are refused before trl, peft and the rehearsal are there.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import convert

from launcher.run.answer_pipe import question_and_answer_pipes
from planner.base.errors import UserError
from planner.plan.bounds import MOST_LAYERS
from planner.plan.schema import Plan

if TYPE_CHECKING:
    import torch

UNLIMITED = 2**20
"""Positions of a model whose configuration has no limit, such as one without attention."""
MOST_BUILDING_S = 60
"""Seconds of processor time after which a model is not built any further."""


def main() -> None:
    """Answer requests until standard input ends."""
    questions, answers = question_and_answer_pipes()
    for line in questions:
        print(json.dumps(answer(json.loads(line))), file=answers)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer; any error, of a model that nobody has tried, becomes its reason."""
    try:
        if "shape" in request:
            return {"shape": shape(request["shape"])}
        return {"phases": _traced(convert(request["trace"], Plan))}
    except ImportError:
        raise  # the training stack is missing or broken, which the process that asks explains
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return {"error": reason if isinstance(error, UserError) else reason[:300]}


def _traced(plan: Plan) -> Any:
    from launcher.rehearsal.rehearse import quiet_libraries, traced  # only a trace needs it

    with quiet_libraries():
        return traced(plan).phases


def shape(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the planner counts of a model: sizes in elements, matrices in forward order.

    Raises ``UserError`` if transformers does not know the architecture, or if the model is larger
    than any.
    """
    config, model = _built(content)
    from launcher.compat.transformers import stacked_parameters, supports_sdpa
    from launcher.compat.trl import takes_fused_head

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


def _built(content: dict[str, Any]) -> tuple[Any, Any]:
    """Return the configuration and the model, on the meta device."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    model_type = content["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UserError(f"the installed transformers does not know the architecture {model_type!r}")
    config: Any = AutoConfig.for_model(**content)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"the installed transformers has no causal language model of type {model_type!r}, and "
            "code from a checkpoint is never run: choose a model of text alone"
        )
    num_layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(num_layers, int) and num_layers > MOST_LAYERS:
        raise UserError(f"it has {num_layers:,} layers, and at most {MOST_LAYERS:,} are planned")
    import torch
    from transformers import AutoModelForCausalLM

    with _time_limit(), torch.device("meta"):
        return config, AutoModelForCausalLM.from_config(config, trust_remote_code=False)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise ``UserError`` inside the block once it has taken ``MOST_BUILDING_S``."""

    def too_long(_signal: int, _frame: Any) -> None:
        raise UserError(f"building it takes more than {MOST_BUILDING_S} s: is a count too large?")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, MOST_BUILDING_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _count(known: dict[str, Any], key: str, otherwise: int) -> int:
    """Return a setting that all layers share, if the architecture has it under its usual name."""
    value = known.get(key)
    return value if isinstance(value, int) and value > 0 else otherwise


def _layers(model: Any) -> "list[torch.nn.Module]":
    """Return the longest list of modules, which is the stack of decoder layers."""
    from torch.nn import ModuleList

    lists = [list(item) for item in model.modules() if isinstance(item, ModuleList)]
    if not lists:
        raise UserError("the model has no list of layers")
    return max(lists, key=len)


def _layer(layer: "torch.nn.Module") -> dict[str, Any]:
    from torch.nn import Linear

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
            if isinstance(module, Linear)
        ],
    }


if __name__ == "__main__":
    main()
