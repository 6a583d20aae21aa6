"""Small real models, built and given dtypes and adapters as the launcher does."""

from typing import Any

import pytest
import torch

from launcher.model_building import cast_trainable
from planner.adapter_targets import lora_targets, misunderstood_targets
from planner.expert_shape import ExpertsSpec
from planner.model import ModelSpec
from planner.model_config import config_from_spec
from planner.numerics import numerics
from planner.plan import AdapterSection, Method, Precision, ZeroStage
from planner.recipe import Workload, load_recipe

bitsandbytes = pytest.importorskip("bitsandbytes")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LLAMA = ModelSpec(
    model_type="llama",
    num_layers=2,
    hidden_size=64,
    intermediate_size=160,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=128,
    max_position_embeddings=256,
)
QWEN2 = {"model_type": "qwen2", "num_key_value_heads": 4, "qkv_bias": True}
GLM = {
    "model_type": "glm",
    "qkv_bias": True,
    "mlp": "fused-swiglu",
    "rotary_fraction": 0.5,
    "rotary": "interleaved",
}
QWEN3 = {"model_type": "qwen3", "qk_norm": "heads", "head_dim": 24}
PHI3 = {"model_type": "phi3", "fused_qkv": True, "mlp": "fused-swiglu", "rotary": "joined"}
MIXTRAL = {
    "model_type": "mixtral",
    "intermediate_size": 96,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=96,
        router="softmax-fp32",
        normalized=True,
    ),
}
QWEN3_MOE = QWEN3 | {
    "model_type": "qwen3_moe",
    "num_layers": 4,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=3,
        intermediate_size=32,
        router="softmax",
        normalized=True,
        dense_layers=(2,),
    ),
}
OLMOE = {
    "model_type": "olmoe",
    "qk_norm": "whole",
    "intermediate_size": 48,
    "experts": ExpertsSpec(
        num_experts=8, experts_per_token=2, intermediate_size=48, router="softmax"
    ),
}
QWEN2_MOE = QWEN2 | {
    "model_type": "qwen2_moe",
    "num_layers": 4,
    "experts": ExpertsSpec(
        num_experts=6,
        experts_per_token=2,
        intermediate_size=32,
        router="softmax",
        shared_intermediate_size=64,
        shared_gate=True,
        every=2,
    ),
}
GLM4 = GLM | {"model_type": "glm4", "norms": "around"}
GEMMA = {
    "model_type": "gemma",
    "num_key_value_heads": 1,
    "head_dim": 24,
    "tied_embeddings": True,
    "activation": "gelu-tanh",
    "norm": "rms-plus-one",
    "scaled_embeddings": True,
}
GEMMA2 = GEMMA | {
    "model_type": "gemma2",
    "num_key_value_heads": 2,
    "norms": "around",
    "sliding_window": 32,
    "full_attention_every": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GEMMA3 = GEMMA | {
    "model_type": "gemma3_text",
    "norms": "around",
    "qk_norm": "heads",
    "local_rotary": True,
    "sliding_window": 100,
    "full_attention_every": 2,
}
OLMO2 = {
    "model_type": "olmo2",
    "norm": "rms-fp32",
    "norms": "after",
    "qk_norm": "whole",
    "rotary": "halves-fp32",
}
EXAONE4 = {
    "model_type": "exaone4",
    "norms": "after",
    "qk_norm": "heads",
    "sliding_window": 100,
    "full_attention_every": 2,
    "unrotated_every": 2,
}
WINDOWED = {"sliding_window": 100, "full_attention_first": 1}
SHAPES = {
    "llama": LLAMA,
    "qwen2": LLAMA.model_copy(update=QWEN2),
    "glm": LLAMA.model_copy(update=GLM),
    "qwen3": LLAMA.model_copy(update=QWEN3),
    "phi3": LLAMA.model_copy(update=PHI3),
    "phi3-partial": LLAMA.model_copy(update=PHI3 | {"rotary_fraction": 0.75}),
    "glm4": LLAMA.model_copy(update=GLM4),
    "gemma": LLAMA.model_copy(update=GEMMA),
    "gemma2": LLAMA.model_copy(update=GEMMA2),
    "gemma3": LLAMA.model_copy(update=GEMMA3),
    "qwen2-windows": LLAMA.model_copy(update=QWEN2 | WINDOWED),
    "qwen3-windows": LLAMA.model_copy(update=QWEN3 | WINDOWED),
    "olmo2": LLAMA.model_copy(update=OLMO2),
    "exaone4": LLAMA.model_copy(update=EXAONE4),
    "granite": LLAMA.model_copy(update={"model_type": "granite", "multipliers": True}),
    "hunyuan": LLAMA.model_copy(
        update={"model_type": "hunyuan_v1_dense", "qk_norm": "heads-rotated"}
    ),
    "smollm3": LLAMA.model_copy(update={"model_type": "smollm3", "unrotated_every": 2}),
    "olmoe": LLAMA.model_copy(update=OLMOE),
    "mixtral": LLAMA.model_copy(update=MIXTRAL),
    "qwen3-moe": LLAMA.model_copy(update=QWEN3_MOE),
    "qwen2-moe": LLAMA.model_copy(update=QWEN2_MOE),
}


def build(spec: ModelSpec) -> Any:
    kernel = "sdpa" if spec.attn_logit_softcapping is None else "eager"
    settings = {**config_from_spec(spec), "attn_implementation": kernel}
    config = transformers.AutoConfig.for_model(**settings)
    return transformers.AutoModelForCausalLM.from_config(config)


def prepare(model: Any, workload: Workload, *, zero_stage: ZeroStage) -> Any:
    """Dtypes, quantization and adapters as the launcher gives them."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    if workload.method == "full":
        return model.to(torch.float32 if kinds.trainable == 4 else torch.bfloat16)
    model = model.to(DTYPES[workload.compute])
    if workload.recipe.quantization is not None:
        quantize(model, workload)
    adapter = workload.recipe.adapter
    assert adapter is not None
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        target_modules=adapter.target_modules
        if isinstance(adapter.target_modules, str)
        else list(adapter.target_modules),
    )
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=kinds.trainable == 4)
    cast_trainable(model, "fp32" if kinds.trainable == 4 else "bf16")
    return model


def quantize(model: Any, workload: Workload) -> None:
    """Put bitsandbytes' 4-bit layers in the place of every matrix but the head."""
    names = {linear.name for linear, _ in workload.model.counted_linears}
    for parent in list(model.modules()):
        for name, old in list(parent.named_children()):
            if name not in names:
                continue
            new = bitsandbytes.nn.Linear4bit(
                old.in_features,
                old.out_features,
                bias=old.bias is not None,
                compute_dtype=DTYPES[workload.compute],
                quant_type="nf4",
                compress_statistics=True,
            )
            new.load_state_dict(old.state_dict())
            setattr(parent, name, new.to("cpu").requires_grad_(requires_grad=False))
    model.is_loaded_in_4bit = True


def matrices_that_hold(spec: ModelSpec, targets: Any) -> Any:
    """The model's own names where one matrix holds several; none that means fused experts."""
    targets = lora_targets(spec, targets)
    if misunderstood_targets(spec, targets):
        return tuple(x for x in targets if x not in misunderstood_targets(spec, targets))
    if targets == "all-linear" or not spec.fused_qkv:
        return targets
    return tuple(
        dict.fromkeys("qkv_proj" if x in ("q_proj", "k_proj", "v_proj") else x for x in targets)
    )


def workload_of(
    spec: ModelSpec,
    method: Method,
    compute: Precision,
    dropout: float,
    targets: Any,
    *,
    dora: bool = False,
) -> Workload:
    recipe = load_recipe(method)
    if recipe.adapter is not None:
        adapter = AdapterSection(
            rank=8,
            alpha=16,
            dropout=dropout,
            dora=dora,
            target_modules=matrices_that_hold(spec, targets),
        )
        recipe = recipe.model_copy(update={"adapter": adapter})
    return Workload(model=spec, recipe=recipe, compute=compute)
