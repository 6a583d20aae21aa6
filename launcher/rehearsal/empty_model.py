"""A plan's model with random weights: its shapes, dtypes, adapter and packed matrices are real."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from launcher.compat.bitsandbytes import Packed4bit, PackedInt8
from launcher.compat.packed_experts import held, hold, packed_stack
from launcher.compat.peft import dora_dequantizes, is_of_adapter, mark_packed
from launcher.compat.torch import cut_like, local_part, own_tensors
from launcher.compat.transformers import (
    cut_over_ranks,
    in_order_of_loading,
    mark_quantized,
    quantized_linears,
    stacks_of,
)
from launcher.rehearsal.phases import cuts_layers
from launcher.storage.hub_names import names_a_folder
from launcher.training.model_building import (
    as_trained,
    attention_of,
    base_dtype,
    cast_trainable,
    packs_experts,
    pin_experts,
    quantization_config,
)
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.strict_json import parse_json
from planner.base.text_files import read_text
from planner.base.user_folders import expanded
from planner.plan.rope_scaling import scaled_config
from planner.plan.schema import ModelSection, Plan
from planner.plan.vocabulary import Part

NOISE = 0.02
"""Standard deviation of the random weights, as transformers initializes them."""


class Recorder(Protocol):
    """An observer of a rehearsal: a tracer of fake tensors, or the meter of a GPU."""

    def phase(self, name: str | None) -> AbstractContextManager[None]:
        """Count what the block allocates as part of a phase; with None, of no phase."""
        ...

    def part(self, name: Part) -> AbstractContextManager[None]:
        """Count what the block allocates as one part of memory."""
        ...

    def switch(self, name: Part) -> None:
        """Count what is allocated from now on as one part of memory."""
        ...

    def assign(self, tensor: torch.Tensor, part: Part) -> None:
        """Count a tensor that exists as one part of memory."""
        ...


@contextmanager
def packed_weights_made_whole() -> Iterator[None]:
    """Have DoRA, which asks peft for whole weights, get those of the packed layers too."""

    def whole(module: Any) -> Any:
        return module.dequantized() if isinstance(module, Packed4bit) else None

    with dora_dequantizes(whole):
        yield


def model_config(plan: Plan) -> Any:
    """Return transformers' configuration from the plan's model folder, or the plan's own.

    Raises ``InvalidRequestError`` if transformers knows no such model or refuses the configuration.
    """
    if plan.model.model_type not in CONFIG_MAPPING:
        raise InvalidRequestError(
            Phrase(
                "model_type {model_type}: transformers builds it from remote code only, "
                "which is never run.",
                model_type=plan.model.model_type,
            )
        )
    content = _folder_config(plan.model) or plan.model.config
    if content is None:
        raise InvalidRequestError(
            Phrase(
                "{source} is not a folder here and the plan holds no model.config to build "
                "the model from. Plan again, or name a local folder: --set model.source=DIR.",
                source=plan.model.source,
            )
        )
    scaled = scaled_config(content, plan.model.rope_scaling, plan.model.source)
    keys = {**scaled, "model_type": plan.model.model_type}
    try:
        return AutoConfig.for_model(**keys)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidRequestError(
            Phrase("model.config: transformers refuses it: {reason}", reason=reason)
        ) from error


def _folder_config(model: ModelSection) -> dict[str, Any] | None:
    """Return the folder's config.json; None without a folder or if its model is of another type."""
    folder = expanded(model.source)
    path = folder / "config.json"
    if not path.is_file():
        if names_a_folder(model.source) and not folder.is_dir():
            raise InvalidRequestError(
                Phrase("model folder {folder} does not exist.", folder=folder)
            )
        return None
    content: dict[str, Any] = parse_json(read_text(path), path)
    return content if content.get("model_type") == model.model_type else None


def build_rehearsal_model(
    plan: Plan,
    device: torch.device,
    recorder: Recorder,
    *,
    prepare: Callable[[Any], None] | None = None,
) -> Any:
    """Return the plan's model with its adapter, given storages one module at a time as in loading.

    ``prepare`` is called with the base model before it is quantized and adapted. Quantized matrices
    are whole for a moment, and then packed. Raises as ``model_config``.
    """
    config = model_config(plan)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            config,
            dtype=base_dtype(plan),
            attn_implementation=attention_of(plan),
            trust_remote_code=False,
        )
        base.config.use_cache = False
        pin_experts(base)
        if cuts_layers(plan):
            base = cut_over_ranks(base, device.type, plan.parallel.world_size)
        if prepare is not None:
            prepare(base)
        settings = quantization_config(plan)
        if settings is not None:
            _replace_linears(base, settings)
        model = as_trained(plan, base)
        cast_trainable(model, plan.precision.trainable)
    _materialize(
        model,
        device,
        recorder,
        with_adapters=plan.adapter is not None,
        packing=settings if packs_experts(plan) else None,
    )
    return model


def _replace_linears(base: Any, settings: BitsAndBytesConfig) -> None:
    packed = PackedInt8 if settings.load_in_8bit else Packed4bit
    for name, linear in list(quantized_linears(base)):
        weight = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        base.set_submodule(name, packed(weight, linear.bias, settings))
    mark_quantized(base)
    mark_packed(base, in_4bit=settings.load_in_4bit, in_8bit=settings.load_in_8bit)


def _materialize(
    model: Any,
    device: torch.device,
    recorder: Recorder,
    *,
    with_adapters: bool,
    packing: BitsAndBytesConfig | None,
) -> None:
    """Give every tensor without a storage one, in the order of a load; tied tensors stay tied.

    Routed experts are packed by the settings ``packing``, if there are any.
    """
    made: dict[int, torch.Tensor] = {}
    for module in _as_loaded(model):
        for tensor in _packed(module, device, recorder, packing):
            recorder.assign(tensor, "weights")
        for tensors in own_tensors(module):
            for name, old in tensors.items():
                if old is None or old.device.type != "meta":
                    continue
                if id(old) not in made:
                    adapter = with_adapters and old.requires_grad
                    with recorder.part("adapters" if adapter else "weights"):
                        made[id(old)] = _with_storage(old, device)
                tensors[name] = made[id(old)]


def _packed(
    module: Any, device: torch.device, recorder: Recorder, packing: BitsAndBytesConfig | None
) -> Iterator[torch.Tensor]:
    """Pack what a module holds packed, and yield the tensors that it then keeps."""
    if isinstance(module, Packed4bit | PackedInt8):
        with recorder.part("workspace"):
            module.quantize(_noise(module.weight, device))
        yield from module.storages
    for name in () if packing is None else stacks_of(module):
        with recorder.part("workspace"):
            hold(module, name, packed_stack(_noise(getattr(module, name), device), packing))
        yield from held(module, name)


def _as_loaded(model: Any) -> list[Any]:
    """Return the base model's modules as a load comes to them, and then those of the adapter."""
    by_name = {
        name if is_of_adapter(name) else name.replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if not hasattr(module, "base_layer")
    }
    ordered = in_order_of_loading(by_name)
    ordered.sort(key=is_of_adapter)
    outside = [module for module in model.modules() if hasattr(module, "base_layer")]
    return [*(by_name[name] for name in ordered), *outside]


def _with_storage(old: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not isinstance(old, torch.nn.Parameter):
        return torch.zeros(old.shape, dtype=old.dtype, device=device)
    made = _noise(local_part(old), device)
    return torch.nn.Parameter(cut_like(old, made), requires_grad=old.requires_grad)


def _noise(old: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return random weights: a GPU multiplies zeros faster, with less power and higher clocks."""
    return torch.empty(old.shape, dtype=old.dtype, device=device).normal_(std=NOISE)
