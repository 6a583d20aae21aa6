"""Small real models, built and given dtypes and adapters as the launcher does."""

from functools import partial
from typing import Any

import pytest
import torch
from msgspec import structs

from launcher.compat.adapted_experts import adapted_by
from launcher.compat.packed_experts import hold, packed_stack
from launcher.compat.transformers import expert_stacks, mark_quantized
from launcher.training.model_building import cast_shared, cast_trainable, lora_config
from launcher.training.text_model import outside_of_text
from planner.models.adapter_targets import (
    divided,
    expert_targets,
    lora_targets,
    misunderstood_targets,
)
from planner.models.config_json import config_from_spec
from planner.models.expert_shape import ExpertsSpec, IndexerSpec, LatentAttentionSpec
from planner.models.layered_shape import (
    AltUpSpec,
    FullHeadsSpec,
    PerLayerInputsSpec,
    SharedKeysSpec,
)
from planner.models.model_spec import ModelSpec
from planner.models.module_names import ONLY_ATTENTION, module_names
from planner.models.recurrent_shape import (
    GatedDeltaSpec,
    Mamba2Spec,
    MambaSpec,
    ShortConvolutionSpec,
)
from planner.models.towers import (
    AudioTowerSpec,
    FramesSpec,
    PatchesSpec,
    TowersSpec,
    VisionTowerSpec,
)
from planner.plan.schema import AdapterSection
from planner.plan.vocabulary import Method, Precision, ZeroStage
from planner.recipes.load_recipe import load_recipe
from planner.workload.dtypes import numerics
from planner.workload.quantization import with_experts
from planner.workload.settings import settings_of
from planner.workload.workload import Workload

bitsandbytes = pytest.importorskip("bitsandbytes")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D

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
GPT_OSS = {
    "model_type": "gpt_oss",
    "num_layers": 3,
    "qkv_bias": True,
    "output_bias": True,
    "norm": "rms-fp32",
    "rotary": "split",
    "attention_sinks": True,
    "sliding_window": 100,
    "full_attention_every": 2,
    "intermediate_size": 48,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=48,
        router="chosen-softmax",
        biased=True,
    ),
}
LATENT: dict[str, Any] = {
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "kv_lora_rank": 32,
    "v_head_dim": 20,
}
DEEPSEEK_V2 = {
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "head_dim": 8,
    "rotary": "complex",
    "latent": LatentAttentionSpec(q_lora_rank=24, **LATENT),
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=32,
        router="fp32-softmax",
        shared_intermediate_size=64,
        first_dense_layers=1,
    ),
}
DEEPSEEK_V2_LITE = DEEPSEEK_V2 | {
    "latent": LatentAttentionSpec(**LATENT),
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=32,
        router="fp32-softmax",
        shared_intermediate_size=64,
    ),
}
CORRECTED = ExpertsSpec(
    num_experts=8,
    experts_per_token=3,
    intermediate_size=32,
    router="sigmoid",
    normalized=True,
    num_groups=4,
    chosen_groups=2,
    shared_intermediate_size=64,
    first_dense_layers=1,
)
DEEPSEEK_V3 = DEEPSEEK_V2 | {
    "model_type": "deepseek_v3",
    "rotary": "pairs",
    "experts": CORRECTED,
}
DEEPSEEK_V32 = DEEPSEEK_V3 | {
    "model_type": "deepseek_v32",
    "latent": LatentAttentionSpec(
        q_lora_rank=24, **LATENT, indexer=IndexerSpec(heads=4, head_dim=16, chosen_keys=32)
    ),
}
GLM_MOE_DSA = DEEPSEEK_V32 | {
    "model_type": "glm_moe_dsa",
    "latent": LatentAttentionSpec(
        q_lora_rank=24,
        **LATENT,
        indexer=IndexerSpec(heads=4, head_dim=16, chosen_keys=32, interleaved=True),
    ),
}
GLM4_MOE = {
    "model_type": "glm4_moe",
    "head_dim": 24,
    "qkv_bias": True,
    "qk_norm": "heads",
    "rotary_fraction": 0.5,
    "rotary": "joined",
    "experts": structs.replace(CORRECTED, num_groups=1, chosen_groups=1),
}
HUNYUAN_MOE = {
    "model_type": "hunyuan_v1_moe",
    "qk_norm": "heads-rotated",
    "intermediate_size": 48,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=48,
        router="softmax",
        normalized=True,
        shared_intermediate_size=48,
        shared_first=True,
        router_matrix="wg",
    ),
}
LLAMA4: dict[str, Any] = {
    "model_type": "llama4_text",
    "num_layers": 4,
    "head_dim": 24,
    "rotary": "complex",
    "qk_norm": "unweighted-rotated",
    "tempered_attention": True,
    "sliding_window": 100,
    "full_attention_every": 2,
    "unrotated_every": 2,
    "experts": ExpertsSpec(
        num_experts=4,
        experts_per_token=1,
        intermediate_size=48,
        router="chosen-sigmoid",
        shared_intermediate_size=48,
        dense=True,
    ),
}
MINICPM3 = {
    "model_type": "minicpm3",
    "num_key_value_heads": 4,
    "head_dim": 8,
    "tied_embeddings": True,
    "scaled_embeddings": True,
    "scaled_blocks": True,
    "latent": LatentAttentionSpec(q_lora_rank=24, **LATENT),
}
GRANITE_MOE = {
    "model_type": "granitemoe",
    "multipliers": True,
    "intermediate_size": 48,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=48,
        router="chosen-softmax-fp32",
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
GPT = {"norm": "layer", "norm_bias": True}
PHI = GPT | {
    "model_type": "phi",
    "num_key_value_heads": 4,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "head_bias": True,
    "mlp": "plain",
    "activation": "gelu-new",
    "residual": "parallel",
    "rotary": "joined",
    "rotary_fraction": 0.5,
}
STABLELM = GPT | {
    "model_type": "stablelm",
    "rotary": "joined",
    "rotary_fraction": 0.25,
}
GPT_NEOX = GPT | {
    "model_type": "gpt_neox",
    "num_key_value_heads": 4,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "fused_qkv": True,
    "mlp": "plain",
    "activation": "gelu",
    "residual": "parallel-two-norms",
    "rotary": "joined",
    "rotary_fraction": 0.25,
}
STARCODER2 = GPT | {
    "model_type": "starcoder2",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "mlp": "plain",
    "activation": "gelu-tanh",
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
}
GPT2 = GPT | {
    "model_type": "gpt2",
    "num_key_value_heads": 4,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "fused_qkv": True,
    "tied_embeddings": True,
    "mlp": "plain",
    "activation": "gelu-new",
    "positions": "learned",
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
}
GPT2_DROPS = GPT2 | {"attention_dropout": 0.1}
OPT = GPT2 | {
    "model_type": "opt",
    "fused_qkv": False,
    "activation": "relu",
    "position_offset": 2,
    "embedding_dropout": 0.0,
}
FALCON = GPT | {
    "model_type": "falcon",
    "num_key_value_heads": 1,
    "fused_qkv": True,
    "tied_embeddings": True,
    "mlp": "plain",
    "activation": "gelu",
    "residual": "parallel",
}
BLOOM = GPT | {
    "model_type": "bloom",
    "intermediate_size": 256,
    "num_key_value_heads": 4,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "fused_qkv": True,
    "tied_embeddings": True,
    "mlp": "plain",
    "activation": "gelu-tanh",
    "embedding_norm": True,
    "positions": "alibi",
}
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
GEMMA4 = GEMMA | {
    "model_type": "gemma4_text",
    "num_layers": 4,
    "num_key_value_heads": 2,
    "norm": "rms-power",
    "norms": "around",
    "qk_norm": "heads",
    "value_norm": True,
    "local_rotary": True,
    "sliding_window": 100,
    "full_attention_every": 2,
    "full_heads": FullHeadsSpec(head_dim=32, key_value_heads=2),
}
GEMMA4_MOE = GEMMA4 | {
    "full_heads": FullHeadsSpec(head_dim=32, key_value_heads=1, keys_are_values=True),
    "final_logit_softcapping": 30.0,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=32,
        router="softmax-fp32",
        normalized=True,
        beside=True,
        router_matrix="proj",
    ),
}
GEMMA4_SMALL = GEMMA4 | {
    "num_layers": 8,
    "shared_keys": SharedKeysSpec(num_layers=4, wide_mlp=True),
    "per_layer_inputs": PerLayerInputsSpec(size=16, vocab_size=128),
}
GEMMA3N = {key: part for key, part in GEMMA4.items() if key != "full_heads"} | {
    "model_type": "gemma3n_text",
    "num_layers": 8,
    "head_dim": 16,
    "final_logit_softcapping": 30.0,
    "shared_keys": SharedKeysSpec(num_layers=4),
    "per_layer_inputs": PerLayerInputsSpec(size=16, vocab_size=128),
    "altup": AltUpSpec(streams=4, rank=8, sparse_layers=3),
}
GEMMA4_WRAPPER = GEMMA4_SMALL | {
    "model_type": "gemma4",
    "beside": TowersSpec(
        vision=VisionTowerSpec(
            num_layers=2,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            patch_size=4,
            position_rows=16,
        ),
        audio=AudioTowerSpec(
            num_layers=1,
            hidden_size=32,
            num_attention_heads=4,
            kernel_size=3,
            channels=(8, 4),
            output_size=24,
        ),
    ),
}
GEMMA4_UNIFIED = GEMMA4 | {"model_type": "gemma4_unified_text"}
GEMMA4_UNIFIED_WRAPPER = GEMMA4 | {
    "model_type": "gemma4_unified",
    "beside": TowersSpec(
        patches=PatchesSpec(patch_size=6, hidden_size=32, position_rows=8, output_size=32),
        frames=FramesSpec(frame_size=20),
    ),
}
PHIMOE: dict[str, Any] = {
    "model_type": "phimoe",
    "norm": "layer",
    "norm_bias": True,
    "head_bias": True,
    "qkv_bias": True,
    "output_bias": True,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=160,
        router="sparse-mixer",
        jitter=True,
    ),
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
OLMO3 = OLMO2 | {
    "model_type": "olmo3",
    "local_rotary": True,
    "sliding_window": 100,
    "full_attention_every": 2,
}
SEED_OSS = {"model_type": "seed_oss", "head_dim": 24, "qkv_bias": True, "residual_dropout": 0.1}
COHERE = {
    "model_type": "cohere",
    "tied_embeddings": True,
    "norm": "layer-fp32",
    "residual": "parallel",
    "rotary": "neighbours-fp32",
    "scaled_logits": True,
}
COHERE2 = COHERE | {
    "model_type": "cohere2",
    "sliding_window": 100,
    "full_attention_every": 2,
    "unrotated_every": 2,
}
ERNIE = {
    "model_type": "ernie4_5",
    "head_dim": 24,
    "tied_embeddings": True,
    "rotary": "products-fp32",
}
ERNIE_MOE = ERNIE | {
    "model_type": "ernie4_5_moe",
    "head_dim": 16,
    "num_layers": 3,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=32,
        router="softmax-corrected",
        normalized=True,
        shared_intermediate_size=64,
        shared_first=True,
        first_dense_layers=1,
    ),
}
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "head_dim": 24,
    "intermediate_size": 48,
    "qk_norm": "whole",
    "rotary": "joined",
    "rotary_fraction": 0.5,
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=48,
        router="sigmoid-fp32",
        normalized=True,
    ),
}
UNGROUPED = structs.replace(CORRECTED, num_groups=1, chosen_groups=1)
GLM4_MOE_LITE = DEEPSEEK_V3 | {"model_type": "glm4_moe_lite", "experts": UNGROUPED}
DOTS1 = {
    "model_type": "dots1",
    "qk_norm": "heads",
    "experts": structs.replace(UNGROUPED, normalized=False),
}
SOLAR_OPEN = {
    "model_type": "solar_open",
    "head_dim": 24,
    "qkv_bias": True,
    "experts": structs.replace(UNGROUPED, first_dense_layers=0),
}
QWEN3_5_DELTA = GatedDeltaSpec(
    key_heads=2,
    value_heads=4,
    key_head_dim=8,
    value_head_dim=12,
    kernel_size=4,
    attention_every=4,
)
QWEN3_5 = {
    "model_type": "qwen3_5_text",
    "num_layers": 4,
    "head_dim": 24,
    "qk_norm": "heads",
    "norm": "rms-plus-one",
    "rotary": "joined",
    "rotary_fraction": 0.5,
    "gated_attention": True,
    "delta": QWEN3_5_DELTA,
}
SHARED_EXPERT = ExpertsSpec(
    num_experts=6,
    experts_per_token=2,
    intermediate_size=32,
    router="softmax",
    normalized=True,
    shared_intermediate_size=64,
    shared_gate=True,
)
QWEN3_NEXT = QWEN3_5 | {
    "model_type": "qwen3_next",
    "delta": structs.replace(QWEN3_5_DELTA, joined=True),
    "experts": structs.replace(SHARED_EXPERT, dense_layers=(1,)),
}
QWEN3_5_MOE = QWEN3_5 | {
    "model_type": "qwen3_5_moe_text",
    "intermediate_size": 32,
    "experts": SHARED_EXPERT,
}
MAMBA2 = Mamba2Spec(heads=8, head_dim=16, groups=2, state_size=24, kernel_size=4, chunk_size=48)
GRANITE_4_DENSE = {
    "model_type": "granitemoehybrid",
    "mlp": "fused-swiglu",
    "multipliers": True,
}
GRANITE_4 = GRANITE_4_DENSE | {
    "positions": "none",
    "mamba": MAMBA2,
    "layer_letters": "M*",
}
GRANITE_4_MOE = GRANITE_4 | {
    "intermediate_size": 48,
    "experts": ExpertsSpec(
        num_experts=6,
        experts_per_token=2,
        intermediate_size=48,
        router="chosen-softmax-fp32",
        shared_intermediate_size=64,
    ),
}
BAMBA = {
    "model_type": "bamba",
    "rotary": "joined",
    "rotary_fraction": 0.5,
    "mamba": MAMBA2,
    "layer_letters": "M*",
}
FALCON_H1 = {
    "model_type": "falcon_h1",
    "head_dim": 24,
    "multipliers": True,
    "mamba": structs.replace(MAMBA2, heads=6, gating="plain", scaled=True),
    "layer_letters": "H",
}
FALCON_H1_NORM = FALCON_H1 | {
    "mamba": structs.replace(MAMBA2, heads=6, gating="norm-first", scaled=True)
}
MAMBA_2 = {
    "model_type": "mamba2",
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 128,
    "max_position_embeddings": 2**20,
    "residual_in_fp32": True,
    "logits_in_fp32": True,
    "positions": "none",
    "mamba": MAMBA2,
    "layer_letters": "M",
    "blocks": "single",
}
NEMOTRON_H = {
    "model_type": "nemotron_h",
    "num_layers": 4,
    "head_dim": 24,
    "mlp": "plain",
    "activation": "relu2",
    "norm": "rms-fp32-weight",
    "logits_in_fp32": True,
    "positions": "none",
    "mamba": MAMBA2,
    "layer_letters": "M-*E",
    "blocks": "single",
    "experts": structs.replace(CORRECTED, first_dense_layers=0, gated=False),
}
NEMOTRON_H_LATENT = NEMOTRON_H | {
    "layer_letters": "E*-M",
    "experts": structs.replace(CORRECTED, first_dense_layers=0, gated=False, latent_size=48),
}
JAMBA: dict[str, Any] = {
    "model_type": "jamba",
    "positions": "none",
    "mamba_1": MambaSpec(inner_size=128, state_size=8, kernel_size=4, step_rank=6),
    "layer_letters": "M*",
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=160,
        router="softmax-like-input",
        every=2,
    ),
}
JAMBA_MIXTURE = JAMBA | {
    "layer_letters": "*M",
    "mamba_1": structs.replace(JAMBA["mamba_1"], convolution_bias=False),
}
LFM2 = {
    "model_type": "lfm2",
    "qk_norm": "heads",
    "tied_embeddings": True,
    "convolution": ShortConvolutionSpec(channels=64, kernel_size=3),
    "layer_letters": "M*",
}
LFM2_BIAS = LFM2 | {"convolution": ShortConvolutionSpec(channels=64, kernel_size=3, bias=True)}
LFM2_MOE = LFM2 | {
    "model_type": "lfm2_moe",
    "experts": ExpertsSpec(
        num_experts=8,
        experts_per_token=2,
        intermediate_size=48,
        router="sigmoid-16-bit",
        normalized=True,
        first_dense_layers=1,
    ),
}
WINDOWED = {"sliding_window": 100, "full_attention_first": 1}
SHAPES = {
    "llama": LLAMA,
    "mistral": structs.replace(LLAMA, model_type="mistral", sliding_window=100),
    "qwen2": structs.replace(LLAMA, **QWEN2),
    "glm": structs.replace(LLAMA, **GLM),
    "qwen3": structs.replace(LLAMA, **QWEN3),
    "phi3": structs.replace(LLAMA, **PHI3),
    "phi3-partial": structs.replace(LLAMA, **(PHI3 | {"rotary_fraction": 0.75})),
    "glm4": structs.replace(LLAMA, **GLM4),
    "phi": structs.replace(LLAMA, **PHI),
    "phi-dropout": structs.replace(LLAMA, **(PHI | {"residual_dropout": 0.1})),
    "stablelm": structs.replace(LLAMA, **STABLELM),
    "stablelm-parallel": structs.replace(
        LLAMA, **(STABLELM | {"residual": "parallel", "qkv_bias": True})
    ),
    "gpt_neox": structs.replace(LLAMA, **GPT_NEOX),
    "gpt_neox-sequential": structs.replace(LLAMA, **(GPT_NEOX | {"residual": "sequential"})),
    "starcoder2": structs.replace(LLAMA, **STARCODER2),
    "gpt2": structs.replace(LLAMA, **GPT2),
    "gpt2-attention-dropout": structs.replace(LLAMA, **GPT2_DROPS),
    "opt": structs.replace(LLAMA, **OPT),
    "falcon": structs.replace(LLAMA, **FALCON),
    "falcon-grouped": structs.replace(
        LLAMA, **(FALCON | {"num_key_value_heads": 2, "residual": "parallel-two-norms"})
    ),
    "bloom": structs.replace(LLAMA, **BLOOM),
    "gemma": structs.replace(LLAMA, **GEMMA),
    "gemma2": structs.replace(LLAMA, **GEMMA2),
    "gemma3": structs.replace(LLAMA, **GEMMA3),
    "gemma4": structs.replace(LLAMA, **GEMMA4),
    "gemma4-moe": structs.replace(LLAMA, **GEMMA4_MOE),
    "gemma4-small": structs.replace(LLAMA, **GEMMA4_SMALL),
    "gemma3n": structs.replace(LLAMA, **GEMMA3N),
    "gemma4-wrapper": structs.replace(LLAMA, **GEMMA4_WRAPPER),
    "gemma4-unified": structs.replace(LLAMA, **GEMMA4_UNIFIED),
    "gemma4-unified-wrapper": structs.replace(LLAMA, **GEMMA4_UNIFIED_WRAPPER),
    "phimoe": structs.replace(LLAMA, **PHIMOE),
    "qwen2-windows": structs.replace(LLAMA, **(QWEN2 | WINDOWED)),
    "qwen3-windows": structs.replace(LLAMA, **(QWEN3 | WINDOWED)),
    "olmo2": structs.replace(LLAMA, **OLMO2),
    "exaone4": structs.replace(LLAMA, **EXAONE4),
    "granite": structs.replace(LLAMA, model_type="granite", multipliers=True),
    "hunyuan": structs.replace(LLAMA, model_type="hunyuan_v1_dense", qk_norm="heads-rotated"),
    "hunyuan-moe": structs.replace(LLAMA, **HUNYUAN_MOE),
    "olmo3": structs.replace(LLAMA, **OLMO3),
    "seed-oss": structs.replace(LLAMA, **SEED_OSS),
    "cohere": structs.replace(LLAMA, **COHERE),
    "cohere2": structs.replace(LLAMA, **COHERE2),
    "ernie4-5": structs.replace(LLAMA, **ERNIE),
    "ernie4-5-moe": structs.replace(LLAMA, **ERNIE_MOE),
    "minimax-m2": structs.replace(LLAMA, **MINIMAX_M2),
    "glm4-moe-lite": structs.replace(LLAMA, **GLM4_MOE_LITE),
    "dots1": structs.replace(LLAMA, **DOTS1),
    "llama4": structs.replace(LLAMA, **LLAMA4),
    "llama4-interleaved": structs.replace(
        LLAMA,
        **(LLAMA4 | {"qk_norm": None, "experts": structs.replace(LLAMA4["experts"], every=2)}),
    ),
    "minicpm3": structs.replace(LLAMA, **MINICPM3),
    "solar-open": structs.replace(LLAMA, **SOLAR_OPEN),
    "bamba": structs.replace(LLAMA, **BAMBA),
    "falcon-h1": structs.replace(LLAMA, **FALCON_H1),
    "falcon-h1-norm": structs.replace(LLAMA, **FALCON_H1_NORM),
    "granite-4": structs.replace(LLAMA, **GRANITE_4),
    "granite-4-attention": structs.replace(LLAMA, **GRANITE_4_DENSE),
    "granite-4-moe": structs.replace(LLAMA, **GRANITE_4_MOE),
    "jamba": structs.replace(LLAMA, **JAMBA),
    "jamba-mixture": structs.replace(LLAMA, **JAMBA_MIXTURE),
    "lfm2": structs.replace(LLAMA, **LFM2),
    "lfm2-bias": structs.replace(LLAMA, **LFM2_BIAS),
    "lfm2-moe": structs.replace(LLAMA, **LFM2_MOE),
    "mamba-2": structs.replace(LLAMA, **MAMBA_2),
    "nemotron-h": structs.replace(LLAMA, **NEMOTRON_H),
    "nemotron-h-latent": structs.replace(LLAMA, **NEMOTRON_H_LATENT),
    "qwen3-5": structs.replace(LLAMA, **QWEN3_5),
    "qwen3-next": structs.replace(LLAMA, **QWEN3_NEXT),
    "qwen3-5-moe": structs.replace(LLAMA, **QWEN3_5_MOE),
    "smollm3": structs.replace(LLAMA, model_type="smollm3", unrotated_every=2),
    "gpt-oss": structs.replace(LLAMA, **GPT_OSS),
    "deepseek-v2": structs.replace(LLAMA, **DEEPSEEK_V2),
    "deepseek-v2-lite": structs.replace(LLAMA, **DEEPSEEK_V2_LITE),
    "deepseek-v3": structs.replace(LLAMA, **DEEPSEEK_V3),
    "deepseek-v32": structs.replace(LLAMA, **DEEPSEEK_V32),
    "glm-5": structs.replace(LLAMA, **GLM_MOE_DSA),
    "glm4-moe": structs.replace(LLAMA, **GLM4_MOE),
    "granite-moe": structs.replace(LLAMA, **GRANITE_MOE),
    "olmoe": structs.replace(LLAMA, **OLMOE),
    "mixtral": structs.replace(LLAMA, **MIXTRAL),
    "qwen3-moe": structs.replace(LLAMA, **QWEN3_MOE),
    "qwen2-moe": structs.replace(LLAMA, **QWEN2_MOE),
}


def build(spec: ModelSpec) -> Any:
    eager = spec.attn_logit_softcapping is not None or spec.latent is not None
    only = ONLY_ATTENTION.get(spec.model_type, "sdpa")
    kernel = "eager" if eager or spec.attention_sinks else only
    config = transformers.AutoConfig.for_model(**config_from_spec(spec))
    return transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation={"": kernel, "text_config": kernel}
    )


def prepare(model: Any, workload: Workload, *, zero_stage: ZeroStage) -> Any:
    """Dtypes, quantization and adapters as the launcher gives them."""
    kinds = numerics(method=workload.method, compute=workload.compute, zero_stage=zero_stage)
    if workload.method == "full":
        return model.to(torch.float32 if kinds.trainable == 4 else torch.bfloat16)
    model = model.to(DTYPES[workload.compute])
    if kinds.trainable == 4:
        keep_in_fp32(model)
    if workload.settings.quantization is not None:
        quantize(model, workload)
    adapter = workload.settings.adapter
    assert adapter is not None
    config: Any = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        target_modules=adapter.target_modules
        if isinstance(adapter.target_modules, str)
        else list(adapter.target_modules),
        target_parameters=list(adapter.target_parameters) or None,
        exclude_modules=outside_of_text(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    if adapter.vera:
        transposed = any(isinstance(module, Conv1D) for module in model.modules())
        config = lora_config(adapter, transposed=transposed, excluded=outside_of_text(model))
    in_fp32 = kinds.trainable == 4
    attach = partial(peft.get_peft_model, peft_config=config, autocast_adapter_dtype=in_fp32)
    model = adapted_by(attach, model)
    if adapter.vera:
        cast_shared(model, DTYPES["fp32" if kinds.shared == 4 else "bf16"])
    cast_trainable(model, "fp32" if kinds.trainable == 4 else "bf16")
    return model


def keep_in_fp32(model: Any) -> None:
    """Make what the class keeps in fp32 so again, as a load in another dtype leaves it."""
    for kept in getattr(model, "_keep_in_fp32_modules_strict", None) or ():
        for name, parameter in model.named_parameters():
            if kept in name:
                parameter.data = parameter.data.float()


def quantize(model: Any, workload: Workload) -> None:
    """Put bitsandbytes' layers in the place of every matrix but the head."""
    quantization = workload.settings.quantization
    assert quantization is not None
    in_8bit = quantization.quant_type == "int8"
    names = {linear.name for linear, _ in workload.model.counted_linears}
    for parent in list(model.modules()):
        for name, old in list(parent.named_children()):
            if name not in names or not hasattr(old, "weight"):
                continue
            stored_transposed = isinstance(old, Conv1D)
            weight = old.weight.T.contiguous() if stored_transposed else old.weight
            new = quantized_layer(weight, old.bias, workload.compute, in_8bit=in_8bit)
            new.load_state_dict({"weight": weight}, strict=False)
            new.bias = old.bias
            setattr(parent, name, new.to("cpu").requires_grad_(requires_grad=False))
    if quantization.experts:
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=quantization.double_quant,
        )
        for module, name in list(expert_stacks(model)):
            hold(module, name, packed_stack(getattr(module, name).data, settings))
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = not in_8bit, in_8bit
    mark_quantized(model)


def quantized_layer(weight: Any, bias: Any, compute: Precision, *, in_8bit: bool) -> Any:
    """bitsandbytes' layer of the weight's shape."""
    out_features, in_features = weight.shape
    sizes = (in_features, out_features, bias is not None)
    if in_8bit:
        return bitsandbytes.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
    return bitsandbytes.nn.Linear4bit(
        *sizes, compute_dtype=DTYPES[compute], quant_type="nf4", compress_statistics=True
    )


LATENT_NAMES = {"q_proj": "q_b_proj", "k_proj": "kv_b_proj", "v_proj": "kv_b_proj"}


def own_names(spec: ModelSpec, targets: Any) -> Any:
    """The model's own names of Llama's matrices, and one where one holds several; none that
    means fused experts."""
    targets = lora_targets(spec, targets)
    if targets == "all-linear":
        return targets
    unfit = misunderstood_targets(spec, targets)
    roles = {}
    if spec.fused_qkv:
        roles = dict.fromkeys(LATENT_NAMES, "qkv_proj")
    if spec.latent is not None and spec.latent.q_lora_rank is not None:
        roles = LATENT_NAMES
    elif spec.latent is not None:
        roles = LATENT_NAMES | {"q_proj": "q_proj"}
    if spec.blocks == "single" and not any(kind.attends for kind in spec.layers):
        roles = dict.fromkeys(targets, "in_proj")
    names = module_names(spec.model_type).matrices
    chosen = [roles.get(target, target) for target in targets if target not in unfit]
    return tuple(dict.fromkeys(names.get(role, role) for role in chosen))


def workload_of(
    spec: ModelSpec,
    method: Method,
    compute: Precision,
    dropout: float,
    targets: Any,
    *,
    dora: bool = False,
    vera: bool = False,
    named: str | None = None,
) -> Workload:
    """The method's recipe, or the one named."""
    recipe = load_recipe(named or method)
    if spec.latent is not None:
        recipe = structs.replace(recipe, attention="eager")
    matrices, tensors = divided(targets)
    if recipe.adapter is not None:
        adapter = AdapterSection(
            rank=8,
            alpha=16,
            dropout=dropout,
            dora=dora,
            vera=vera,
            target_modules=own_names(spec, matrices),
            target_parameters=expert_targets(spec, tensors),
        )
        recipe = structs.replace(recipe, adapter=adapter)
    if recipe.quantization is not None:
        packed = with_experts(recipe.quantization, spec)
        recipe = structs.replace(recipe, quantization=packed)
    return Workload(model=spec, settings=settings_of(recipe), compute=compute)
