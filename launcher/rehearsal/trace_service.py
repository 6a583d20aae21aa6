"""Service for models that the planner has no forward pass for: their shape and their steps.

``python -m launcher.rehearsal.trace_service`` reads one JSON request per line and prints one line
of JSON for it, or {"error": REASON}:

    {"shape": CONFIG}    a model's matrices by layer and its counts, from its config.json
    {"trace": PLAN}      bytes by part of forward and backward of that plan, on fake tensors

Libraries are imported when a request has come so far that it needs them: most configurations that
nothing can be built from are refused before trl, peft and the rehearsal are there.
"""

import gc
import json
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import convert

from launcher.rehearsal.trace_failures import explained, one_line
from launcher.run.answer_pipe import question_and_answer_pipes
from planner.base.errors import UserError
from planner.base.phrases import Phrase, as_data
from planner.plan.bounds import MOST_LAYERS
from planner.plan.schema import Plan

if TYPE_CHECKING:
    import torch

UNLIMITED = 2**20
"""Positions of a model whose configuration has no limit, such as one without attention."""
EXPERTS = "experts"
"""Name of the modules that hold routed experts."""
EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "experts_per_token",
    "num_selected_experts",
)
"""Names that configurations have for the number of experts a token is sent to."""
MOST_BUILDING_S = 60
"""Seconds of processor time after which a model is not built any further."""


def main() -> None:
    """Answer requests until standard input ends.

    Garbage is collected between two answers, and only among what the last one has left: the
    collector took a third of a trace, since libraries and fake tensors are a million objects.
    Nothing is compiled where nothing is computed: bitsandbytes would import the compiler.
    """
    gc.disable()
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    questions, answers = question_and_answer_pipes()
    for line in questions:
        print(json.dumps(answer(json.loads(line))), file=answers)
        gc.collect()
        gc.freeze()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer; any error, of a model that nobody has tried, becomes its reason."""
    try:
        if "shape" in request:
            return {"shape": shape(request["shape"])}
        return {"phases": _traced(convert(request["trace"], Plan))}
    except ModuleNotFoundError:
        raise  # the training stack is missing, which the process that asks explains
    except UserError as error:
        return {"error": as_data(error.message)}
    except Exception as error:
        return {"error": one_line(error)}


def _traced(plan: Plan) -> Any:
    from launcher.rehearsal.layer_law import can_be_traced, pass_phases  # only a trace needs both
    from launcher.rehearsal.rehearse import quiet_libraries

    with quiet_libraries():
        try:
            return pass_phases(plan)
        except (ModuleNotFoundError, UserError):
            raise
        except Exception as error:
            raise explained(plan, error, can_be_traced=can_be_traced) from error


def shape(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the planner counts of a model: sizes in elements, matrices in forward order.

    Raises ``UserError`` if transformers does not know the architecture, or if the model is larger
    than any.
    """
    wrapper, model = _built(content)
    from launcher.compat.peft import unadaptable_names
    from launcher.compat.transformers import stacked_parameters, supports_sdpa
    from launcher.compat.trl import takes_fused_head
    from launcher.training.text_model import decoder_layers, towers

    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    known = _settings(wrapper.get_text_config())
    heads = _count(known, "num_attention_heads", 1)
    beside = towers(model)
    layers, outside, in_towers = _matrices(model, decoder_layers(model), beside)
    experts = Experts.of(known)
    adaptable = [linear["name"] for linear in chain(*layers, outside)]
    return {
        "native_class": type(model).__name__,
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "untrained_params": sum(
            parameter.numel() for parameter in model.parameters() if not parameter.requires_grad
        ),
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
        "stacked_params": max((one.numel() for one in stacked_parameters(model)), default=0),
        "active_weights": sum(experts.active(layer) for layer in decoder_layers(model))
        + sum(linear["in_features"] * linear["out_features"] for linear in outside),
        "layers": [
            {"num_params": count, "linears": linears}
            for count, linears in zip(_own_params(decoder_layers(model)), layers, strict=True)
        ],
        "outside": outside,
        "in_towers": in_towers,
        "towers": beside,
        "left_out": _left_out(wrapper, model),
        "unadaptable": unadaptable_names(model, dict.fromkeys(adaptable)),
        "loss": "fused" if takes_fused_head(model) else "standard",
        "recomputable": model.supports_gradient_checkpointing,
    }


class Experts(NamedTuple):
    """How many of its routed experts a layer sends a token to."""

    per_token: int | None
    """None where the configuration has it under no usual name; all are counted then."""

    @classmethod
    def of(cls, known: dict[str, Any]) -> "Experts":
        """Return what a configuration says."""
        counts = (known.get(name) for name in EXPERTS_PER_TOKEN)
        return cls(next((each for each in counts if isinstance(each, int) and each > 0), None))

    def active(self, layer: "torch.nn.Module") -> int:
        """Return the weights of one layer's matrices that one token is multiplied with."""
        total = 0
        for path, parameter in layer.named_parameters():
            *modules, _ = path.split(".")
            routed = EXPERTS in modules
            if parameter.dim() == 3 and routed:
                total += self._share(parameter.numel(), len(parameter))
            elif parameter.dim() == 2:
                total += parameter.numel() if not routed else 0
        for path, module in layer.named_modules():
            if path.rpartition(".")[2] == EXPERTS:
                single = sum(one.numel() for one in module.parameters() if one.dim() == 2)
                total += self._share(single, len(list(module.children())))
        return total

    def _share(self, weights: int, count: int) -> int:
        chosen = count if self.per_token is None else min(self.per_token, count)
        return weights * chosen // count if count else weights


def _matrices(
    model: Any, layers: Any, beside: Sequence[str]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the matrices of each layer, those of the text model outside of its layers, and those
    of towers; the head is none of them."""
    from launcher.compat.transformers import quantized_linears
    from launcher.training.text_model import is_matrix

    head = model.get_output_embeddings()
    packed = {id(module) for _, module in quantized_linears(model)}
    counted = {
        id(one) for each in (model.get_input_embeddings(), head) for one in each.parameters()
    }
    in_layers = [
        [
            _linear(name, one, packed, counted)
            for name, one in layer.named_modules()
            if is_matrix(one)
        ]
        for layer in layers
    ]
    inside = {id(module) for module in layers.modules()}
    outside, in_towers = list[Any](), list[Any]()
    for name, module in model.named_modules():
        if is_matrix(module) and module is not head and id(module) not in inside:
            in_tower = any(name == tower or name.startswith(f"{tower}.") for tower in beside)
            (in_towers if in_tower else outside).append(_linear(name, module, packed, counted))
    return in_layers, outside, in_towers


def _own_params(layers: Any) -> Iterator[int]:
    """Yield the parameters of each layer, without those of a layer before it."""
    counted = set[int]()
    for layer in layers:
        own = [one for one in layer.parameters() if id(one) not in counted]
        counted |= {id(one) for one in own}
        yield sum(one.numel() for one in own)


def _linear(name: str, module: Any, packed: Collection[int], counted: set[int]) -> dict[str, Any]:
    """Return a matrix as the planner counts it; GPT's Conv1D stores it transposed. ``packed`` are
    the modules that bitsandbytes quantizes, and ``counted`` the parameters of modules before it,
    which get its own."""
    from torch.nn import Linear

    sides = module.weight.shape if isinstance(module, Linear) else module.weight.shape[::-1]
    found = {
        "name": name.rpartition(".")[2],
        "in_features": sides[1],
        "out_features": sides[0],
        "bias": module.bias is not None and id(module.bias) not in counted,
        "whole": id(module) not in packed,
        "tied": id(module.weight) in counted,
    }
    counted |= {id(one) for one in module.parameters()}
    return found


def _left_out(wrapper: Any, model: Any) -> list[str]:
    """Return the parts of a wrapper's configuration that the text model, built alone, lacks."""
    if type(model.config) is type(wrapper):
        return []
    text = wrapper.get_text_config()
    return [
        name for name in wrapper.sub_configs if getattr(wrapper, name, None) not in (None, text)
    ]


def _built(content: dict[str, Any]) -> tuple[Any, Any]:
    """Return the configuration and the model, on the meta device."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    model_type = content["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            Phrase(
                "the installed transformers does not know the architecture {model_type!r}",
                model_type=model_type,
            )
        )
    config: Any = AutoConfig.for_model(**content)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            Phrase(
                "the installed transformers has no causal language model of type "
                "{model_type!r}, and code from a checkpoint is never run: choose a model of "
                "text alone",
                model_type=model_type,
            )
        )
    num_layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(num_layers, int) and num_layers > MOST_LAYERS:
        raise UserError(
            Phrase(
                "it has {num_layers:,} layers, and at most {most_layers:,} are planned",
                num_layers=num_layers,
                most_layers=MOST_LAYERS,
            )
        )
    import torch
    from transformers import AutoModelForCausalLM

    with _as_before(), torch.device("meta"), _time_limit():
        return config, AutoModelForCausalLM.from_config(config, trust_remote_code=False)


@contextmanager
def _as_before() -> Iterator[None]:
    """Restore what code inside the block changes of torch and cannot restore itself, where the time
    limit ends it at any place."""
    import torch

    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise ``UserError`` inside the block once it has taken ``MOST_BUILDING_S``."""

    def too_long(_signal: int, _frame: Any) -> None:
        raise UserError(
            Phrase(
                "building it takes more than {seconds} s: is a count too large?",
                seconds=MOST_BUILDING_S,
            )
        )

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, MOST_BUILDING_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _settings(config: Any) -> dict[str, Any]:
    """Return what a configuration holds, by its own names and by the usual ones."""
    known: dict[str, Any] = config.to_dict()
    usual = {name: known[own] for name, own in config.attribute_map.items() if own in known}
    return known | usual


def _count(known: dict[str, Any], key: str, otherwise: int) -> int:
    """Return a setting that all layers share, if the configuration knows it by its usual name."""
    value = known.get(key)
    return value if isinstance(value, int) and value > 0 else otherwise


if __name__ == "__main__":
    main()
