"""A plan's model with weights that mean nothing: its shapes, dtypes, adapter, packed matrices."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import bitsandbytes
import torch
from peft.tuners.lora import dora
from peft.utils.integrations import dequantize_module_weight
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from launcher.storage.hub_names import names_a_folder
from launcher.training.model_building import (
    base_dtype,
    cast_trainable,
    pin_experts,
    quantization_config,
    with_adapter,
)
from planner.base.errors import InvalidFileError, InvalidRequestError
from planner.base.strict_yaml import read_text
from planner.plan.schema import ModelSection, Plan
from planner.plan.vocabulary import Part

NOISE = 0.02
"""Standard deviation of weights that mean nothing, as transformers initializes them."""


class Recorder(Protocol):
    """Who watches a rehearsal: a tracer of fake tensors, or the meter of a GPU."""

    def phase(self, name: str | None) -> AbstractContextManager[None]: ...
    def part(self, name: Part) -> AbstractContextManager[None]: ...
    def switch(self, name: Part) -> None: ...
    def own(self, tensor: torch.Tensor, part: Part) -> None: ...


class Packed4bit(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """bitsandbytes' layer around a plain parameter: its own does not wrap fake tensors."""

    def __init__(self, linear: torch.nn.Linear | Conv1D, settings: BitsAndBytesConfig) -> None:
        torch.nn.Module.__init__(self)
        weight = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        self.compute_dtype = settings.bnb_4bit_compute_dtype
        self.compute_type_is_set = True
        self.support_avx512bf16_for_cpu = False
        self.quant_storage = torch.uint8
        self.quant_state: Any = None
        self.settings = settings
        self.bias = linear.bias
        self._hold(weight)

    def quantize(self, device: torch.device) -> None:
        """Give it storages: those of the whole matrix first, as loading does."""
        whole = _noise(self.weight, device)
        packed, state = bitsandbytes.functional.quantize_4bit(
            whole,
            compress_statistics=self.settings.bnb_4bit_use_double_quant,
            quant_type=self.settings.bnb_4bit_quant_type,
        )
        self._hold(packed)
        self.weight.quant_state = self.quant_state = state

    @property
    def storages(self) -> tuple[torch.Tensor, ...]:
        """What stays of a quantized matrix; one table of scales is shared by all."""
        state = self.quant_state
        scales = (state.offset, state.state2.absmax) if state.nested else ()
        return (self.weight, state.absmax, state.code, *scales)

    def _hold(self, weight: torch.Tensor) -> None:
        """The attributes are those that peft reads."""
        held: Any = torch.nn.Parameter(weight.detach(), requires_grad=False)
        held.compress_statistics = self.settings.bnb_4bit_use_double_quant
        held.quant_type = self.settings.bnb_4bit_quant_type
        self.weight = held


class PackedInt8(bitsandbytes.nn.Linear8bitLt):  # type: ignore[misc]
    """bitsandbytes' int8 layer around a plain parameter, as above."""

    def __init__(self, linear: torch.nn.Linear | Conv1D, settings: BitsAndBytesConfig) -> None:
        torch.nn.Module.__init__(self)
        weight = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        self.out_features, self.in_features = int(weight.shape[0]), int(weight.shape[1])
        self.index = None
        self.state = bitsandbytes.MatmulLtState()
        self.state.has_fp16_weights = False
        self.state.threshold = settings.llm_int8_threshold
        self.bias = linear.bias
        self._hold(weight)

    def quantize(self, device: torch.device) -> None:
        """Give it storages: those of the whole matrix first, and of its copy in fp16."""
        whole = _noise(self.weight, device)
        half = whole.to(torch.float16, copy=True)
        codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(half)
        self._hold(codes)
        self.state.CB, self.state.SCB = self.weight.data, scales

    @property
    def storages(self) -> tuple[torch.Tensor, ...]:
        return self.weight, self.state.SCB

    def _hold(self, weight: torch.Tensor) -> None:
        """The attributes are those that the layer's forward reads."""
        held: Any = torch.nn.Parameter(weight.detach(), requires_grad=False)
        held.CB = held.SCB = None
        self.weight = held


@contextmanager
def packed_weights_made_whole() -> Iterator[None]:
    """DoRA asks peft for whole weights, and peft knows a packed one by its type."""

    def whole(module: Any) -> Any:
        if not isinstance(module, Packed4bit) or module.quant_state is None:
            return dequantize_module_weight(module)
        return bitsandbytes.functional.dequantize_4bit(module.weight.data, module.quant_state)

    with patch.object(dora, "dequantize_module_weight", whole):
        yield


def model_config(plan: Plan) -> Any:
    """The configuration in the plan's model folder where there is one, else the plan's own."""
    if plan.model.model_type not in CONFIG_MAPPING:
        raise InvalidRequestError(
            f"model_type {plan.model.model_type}: transformers builds it from remote code only, "
            "and none is run."
        )
    content = _folder_config(plan.model) or plan.model.config
    if content is None:
        raise InvalidRequestError(
            f"{plan.model.source} is no folder here and the plan holds no model.config to build "
            "the model from. Plan again, or name a local folder: --set model.source=DIR."
        )
    keys = {**content, "model_type": plan.model.model_type}
    try:
        return AutoConfig.for_model(**keys)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidRequestError(f"model.config: transformers refuses it: {reason}") from error


def _folder_config(model: ModelSection) -> dict[str, Any] | None:
    """Nothing where there is no folder, or its model is built as another architecture."""
    folder = Path(model.source).expanduser()
    path = folder / "config.json"
    if not path.is_file():
        if names_a_folder(model.source) and not folder.is_dir():
            raise InvalidRequestError(f"model folder {folder} does not exist.")
        return None
    try:
        content: dict[str, Any] = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidFileError(path, error.lineno, f"not JSON: {error.msg}") from error
    return content if content.get("model_type") == model.model_type else None


def build_rehearsal_model(plan: Plan, device: torch.device, recorder: Recorder) -> Any:
    """Built without memory, then given storages one module at a time, as loading does."""
    config = model_config(plan)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            config, dtype=base_dtype(plan), attn_implementation=plan.attention
        )
        base.config.use_cache = False
        pin_experts(base)
        settings = quantization_config(plan)
        if settings is not None:
            _replace_linears(base, settings)
        model = with_adapter(plan, base)
        cast_trainable(model, plan.precision.trainable)
    _materialize(model, device, recorder, with_adapters=plan.adapter is not None)
    return model


def _replace_linears(base: Any, settings: BitsAndBytesConfig) -> None:
    """Every matrix but the head.

    read: transformers/integrations/bitsandbytes.py at 5.23, replace_with_bnb_linear: GPT-2's
    Conv1D and nn.Linear itself, none of its subclasses.
    """
    packed = PackedInt8 if settings.load_in_8bit else Packed4bit
    head = base.get_output_embeddings()
    for parent, name, linear in list(_linears(base)):
        if linear is not head:
            setattr(parent, name, packed(linear, settings))
    base.is_loaded_in_4bit = settings.load_in_4bit
    base.is_loaded_in_8bit = settings.load_in_8bit


def _linears(base: Any) -> Iterator[tuple[Any, str, torch.nn.Linear | Conv1D]]:
    for parent in base.modules():
        for name, child in parent.named_children():
            if type(child) in (torch.nn.Linear, Conv1D):
                yield parent, name, child


def _materialize(
    model: Any, device: torch.device, recorder: Recorder, *, with_adapters: bool
) -> None:
    """Storages for all that has none; what is tied stays tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        if isinstance(module, Packed4bit | PackedInt8):
            with recorder.part("workspace"):
                module.quantize(device)
            for tensor in module.storages:
                recorder.own(tensor, "weights")
        for owned in (module._parameters, module._buffers):
            for name, old in owned.items():
                if old is None or old.device.type != "meta":
                    continue
                if id(old) not in made:
                    adapter = with_adapters and old.requires_grad
                    with recorder.part("adapters" if adapter else "weights"):
                        made[id(old)] = _with_storage(old, device)
                owned[name] = made[id(old)]


def _with_storage(old: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not isinstance(old, torch.nn.Parameter):
        return torch.zeros(old.shape, dtype=old.dtype, device=device)
    return torch.nn.Parameter(_noise(old, device), requires_grad=old.requires_grad)


def _noise(old: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A GPU multiplies zeros faster than weights: less power, higher clocks."""
    return torch.empty(old.shape, dtype=old.dtype, device=device).normal_(std=NOISE)
