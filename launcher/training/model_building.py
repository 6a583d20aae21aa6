"""A plan's model: loaded, quantized, with its adapter, every parameter in its planned precision.

These are the conventions that the memory model counts:

* without DeepSpeed, frozen parameters stay in 16 bit, trainable ones in fp32, and matrices
  are multiplied under autocast;
* with DeepSpeed all floating parameters are in the compute precision, and the fp32 master
  of the trainable ones lives in DeepSpeed's optimizer;
* under FSDP what trains is kept in fp32 and gathered in the compute precision; 4-bit codes are
  stored in that, too;
* in pure bf16 all are in bf16, the master and the optimizer's states too, without autocast;
* routed experts run as grouped products, and their load-balancing loss is off; in 4 bit they are
  unpacked for each product, and their adapters are two more grouped products;
* quantized weights are never "prepared for k-bit training": embeddings, norms and head stay
  in 16 bit.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.distributed import DistributedConfig
from transformers.pytorch_utils import Conv1D

from launcher.compat.adapted_experts import adapted_by
from launcher.compat.bitsandbytes import silence_int8_casts
from launcher.compat.cut_layers import cut_by, drop_heads_by_rank
from launcher.compat.packed_experts import hold_packed, packed_on_load
from launcher.compat.replacement import replaced
from launcher.compat.transformers import (
    set_experts_implementation,
    summing_gradients_at_once,
)
from launcher.storage.json_files import read_json
from launcher.training.text_model import outside_of_text
from launcher.training.tiled_mlp import tile_mlps
from planner.plan.rope_scaling import scaled_config
from planner.plan.schema import AdapterSection, Plan
from planner.plan.vocabulary import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}

EXPERTS_IMPLEMENTATION = "grouped_mm"
"""How routed experts are computed: all their products as one operator, so that no size depends on
the router (planner/forward/mixtures/experts.py). It is the default of transformers 5.23, on any
device."""

TEXT_CONFIGS = ("decoder", "generator", "text_config")
"""Names that wrappers have for the configuration of their text model; read:
transformers/configuration_utils.py at 5.23, get_text_config."""

INT8_THRESHOLD = 6.0
"""Size from which inputs keep their columns out of the int8 product (arXiv:2208.07339, section
3.2); transformers' own default. How many there are depends on the data, so none is counted."""


def build_model(plan: Plan, checkpoint: Path, device: torch.device) -> Any:
    """Return the model that is trained, with its adapter, loaded from a checkpoint folder."""
    is_cut = plan.parallel.strategy == "tensor"
    return as_trained(plan, load_base(plan, checkpoint, device, is_cut=is_cut))


def as_trained(plan: Plan, base: Any) -> Any:
    """Return a base model as it trains: with the plan's adapter, its MLPs in tiles if the plan says
    so."""
    if plan.tiled_mlp:
        tile_mlps(base)
    return with_adapter(plan, base)


def with_adapter(plan: Plan, model: Any) -> Any:
    """Return the model with the plan's adapter; the model itself if the plan has none."""
    if plan.adapter is None:
        return model
    fp32_adapter = plan.kept_trainable == "fp32"
    settings = lora_config(
        plan.adapter,
        transposed=stores_transposed(model),
        excluded=outside_of_text(model),
    )
    attach = partial(get_peft_model, peft_config=settings, autocast_adapter_dtype=fp32_adapter)
    if plan.parallel.strategy == "tensor":
        return cut_by(attach, model)
    model = adapted_by(attach, model)
    if plan.adapter.vera:
        cast_shared(model, DTYPES[shared_precision(plan)])
    return model


def shared_precision(plan: Plan) -> Precision:
    """Return the dtype of the matrices that VeRA's adapters share: that in which they are
    multiplied, so that autocast copies none of them for each product."""
    precision = plan.precision
    return precision.compute if precision.autocast else precision.trainable


def cast_shared(model: Any, dtype: torch.dtype) -> None:
    """Cast the matrices that VeRA's adapters share; peft makes and loads them in fp32."""
    for shared in (model.base_model.vera_A, model.base_model.vera_B):
        for name in shared:
            shared[name] = shared[name].to(dtype)


def with_trained_adapter(model: Any, folder: Path) -> Any:
    """Return a base model with the adapter of a folder."""
    return adapted_by(partial(PeftModel.from_pretrained, model_id=folder), model)


def stores_transposed(model: Any) -> bool:
    """Return whether the matrices are GPT-2's Conv1D, which peft does not see by itself."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def base_dtype(plan: Plan) -> torch.dtype:
    """Return the dtype of the base model's unquantized weights."""
    return DTYPES[plan.precision.trainable if plan.adapter is None else plan.precision.frozen]


def load_base(plan: Plan, checkpoint: Path, device: torch.device, *, is_cut: bool = False) -> Any:
    """Return the base model of a checkpoint folder, quantized as the plan says, on the device; or,
    where it ``is_cut``, this rank's part of each layer."""
    settings = quantization_config(plan)
    with _changed_load(plan, settings, is_cut=is_cut):
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            config=planned_config(plan, checkpoint),
            dtype=base_dtype(plan),
            attn_implementation=attention_of(plan),
            quantization_config=settings,
            **_placement(plan, device, is_cut=is_cut),
            use_safetensors=True,
            trust_remote_code=False,
        )
    if packs_experts(plan):
        hold_packed(model)
    if is_cut:
        drop_heads_by_rank(model)
    model.config.use_cache = False
    pin_experts(model)
    return model


def _changed_load(
    plan: Plan, settings: BitsAndBytesConfig | None, *, is_cut: bool
) -> AbstractContextManager[Any]:
    """Return a context in which a load does what the plan counts."""
    if packs_experts(plan):
        return packed_on_load(settings)
    if is_cut:
        return replaced(summing_gradients_at_once())
    return nullcontext()


def planned_config(plan: Plan, checkpoint: Path) -> Any:
    """Return transformers' configuration of a checkpoint folder with the plan's scaling of
    positions; None for the folder's own.

    Raises ``InvalidRequestError`` if the model comes with another scaling.
    """
    scaling = plan.model.rope_scaling
    if scaling is None:
        return None
    content = read_json(checkpoint / "config.json")
    return AutoConfig.for_model(**scaled_config(content, scaling, plan.model.source))


def packs_experts(plan: Plan) -> bool:
    """Return whether routed experts are in 4 bit, too."""
    return plan.quantization is not None and plan.quantization.experts


def attention_of(plan: Plan) -> dict[str, str]:
    """Return transformers' setting of the plan's attention, for a model and the text model inside
    a wrapper; models of images and of sound keep their own, as some have no other (Gemma 4's model
    of sound)."""
    return dict.fromkeys(("", *TEXT_CONFIGS), plan.attention)


def pin_experts(model: Any) -> None:
    """Have routed experts computed as the memory model counts them, if the model has any."""
    set_experts_implementation(model, EXPERTS_IMPLEMENTATION)


def pin_attention_backends() -> None:
    """Leave PyTorch the backends whose memory the plan counts: flash and memory-efficient.

    PyTorch 2.13 prefers cuDNN's on compute capability 9.0 and 10.0, whose workspace is not known.
    read: sdp_utils.cpp below aten/src/ATen/native/transformers/cuda at 2.13,
    check_prefer_cudnn_attention.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def quantization_config(plan: Plan) -> BitsAndBytesConfig | None:
    """Return transformers' settings for the plan's quantization; None if it has none."""
    if plan.quantization is None:
        return None
    if plan.quantization.quant_type == "int8":
        silence_int8_casts()
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=INT8_THRESHOLD)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quantization.quant_type,
        bnb_4bit_use_double_quant=plan.quantization.double_quant,
        bnb_4bit_compute_dtype=DTYPES[plan.precision.compute],
        bnb_4bit_quant_storage=quant_storage(plan),
    )


def quant_storage(plan: Plan) -> torch.dtype:
    """Return the dtype that 4-bit codes are stored in: FSDP shards what is like the other weights
    (bitsandbytes 0.50.2, docs, FSDP-QLoRA)."""
    return DTYPES[plan.precision.frozen] if plan.parallel.strategy == "fsdp" else torch.uint8


def lora_config(
    adapter: AdapterSection, *, transposed: bool, excluded: str | None = None
) -> LoraConfig | VeraConfig:
    """Return peft's settings for an adapter; ``transposed`` says that matrices are Conv1D's, and
    ``excluded`` is a pattern of names that get none."""
    targets = adapter.target_modules
    if adapter.vera:
        return VeraConfig(
            task_type="CAUSAL_LM",
            r=adapter.rank,
            vera_dropout=adapter.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            bias="none",
            fan_in_fan_out=transposed,
            save_projection=True,
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        use_rslora=adapter.rslora,
        target_modules=targets if isinstance(targets, str) else list(targets),
        target_parameters=list(adapter.target_parameters) or None,
        exclude_modules=excluded,
        bias="none",
        fan_in_fan_out=transposed,
    )


def _placement(plan: Plan, device: torch.device, *, is_cut: bool) -> dict[str, Any]:
    """Return where a load leaves the weights: all on this rank's device, or on the host, where FSDP
    takes its shards from; ZeRO-3 and tensor parallelism leave it a part of each."""
    if is_cut:
        return {"distributed_config": DistributedConfig(tp_size=plan.parallel.world_size)}
    if plan.parallel.zero_stage == 3 and plan.quantization is None:
        return {"device_map": None}
    if plan.parallel.strategy == "fsdp":
        return {"device_map": {"": torch.device("cpu")}}
    return {"device_map": {"": device}}


def cast_trainable(model: Any, precision: Precision) -> None:
    """Cast trainable parameters to a precision; a library may have cast them to another."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != DTYPES[precision]:
            parameter.data = parameter.data.to(DTYPES[precision])
