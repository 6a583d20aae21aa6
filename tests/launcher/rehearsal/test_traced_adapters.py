"""What is counted of a model without formulas, against peft's own adapters on the real class."""

import json
from typing import Any

import pytest
import torch
import transformers
from msgspec import structs

from launcher.rehearsal.rehearse import quiet_libraries
from launcher.rehearsal.trace_service import shape
from launcher.training.model_building import lora_config, stores_transposed
from launcher.training.text_model import outside_of_text, towers
from planner.models.traced_model import TracedSpec, traced_spec
from planner.recipes.load_recipe import load_recipe
from planner.speed.flops import active_weights
from planner.workload.parameters import parameters
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import trained_tensors
from planner.workload.workload import Workload
from tests.launcher.rehearsal.test_trace_service import HYBRID, MIXTURE

DECODER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
GEMMA_4_TEXT = DECODER | {
    "model_type": "gemma4_text",
    "global_head_dim": 16,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
}
GEMMA_4 = {
    "model_type": "gemma4",
    "text_config": GEMMA_4_TEXT,
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "audio_config": None,
}
GEMMA_3 = {
    "model_type": "gemma3",
    "text_config": DECODER | {"model_type": "gemma3_text"},
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
    },
    "mm_tokens_per_image": 4,
}
QWEN_3_5 = {
    "model_type": "qwen3_5",
    "text_config": DECODER
    | {"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention"]},
    "vision_config": {"model_type": "qwen3_5", "depth": 2, "hidden_size": 32},
}
FALCON_H1 = DECODER | {
    "model_type": "falcon_h1",
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
}
EXPERTS_ALONE = DECODER | {
    "model_type": "cohere2_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["sliding_attention", "full_attention"],
}
GPT = {
    "model_type": "openai-gpt",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": 512,
}
OLMO = DECODER | {"model_type": "olmo"}
"""Its norms have no parameters."""
GEMMA_3N = DECODER | {
    "model_type": "gemma3n_text",
    "num_hidden_layers": 10,
    "num_kv_shared_layers": 5,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "activation_sparsity_pattern": [0.95] * 10,
    "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 2,
}
ZAMBA_2 = DECODER | {
    "model_type": "zamba2",
    "num_hidden_layers": 6,
    "layers_block_type": ["mamba", "hybrid"] * 3,
    "num_key_value_heads": 4,
    "mamba_d_state": 16,
    "n_mamba_heads": 4,
    "chunk_size": 32,
    "num_mem_blocks": 2,
    "adapter_rank": 8,
    "add_bias_linear": True,
}
"""The first and the last of its three transformer blocks have the same weights."""
PROPHET = {
    "model_type": "prophetnet",
    "vocab_size": 512,
    "hidden_size": 64,
    "decoder_ffn_dim": 128,
    "num_decoder_layers": 2,
    "num_decoder_attention_heads": 4,
    "is_encoder_decoder": False,
}
"""A wrapper holds the table of embeddings beside its decoder, which has the same."""
MODELS: dict[str, dict[str, Any]] = {
    "convolutions": HYBRID,
    "stacked-experts": MIXTURE,
    "matrix-outside": GEMMA_4_TEXT,
    "vision-tower": GEMMA_4,
    "text-of-a-wrapper": QWEN_3_5,
    "mamba": FALCON_H1,
    "conv1d": GPT,
    "experts-alone": EXPERTS_ALONE,
    "norms-without-parameters": OLMO,
    "layers-that-share": ZAMBA_2,
    "matrices-by-number": GEMMA_3N,
}


def _traced(content: dict[str, Any]) -> TracedSpec:
    with quiet_libraries():
        return traced_spec(shape(content), content["model_type"], json.dumps(content))


def _workload(spec: TracedSpec, method: str) -> Workload:
    settings = settings_of(load_recipe(method))
    work = Workload(model=spec, settings=settings, compute="bf16")
    if settings.adapter is None:
        return work
    from planner.models.adapter_targets import lora_targets

    names = lora_targets(spec, settings.adapter.target_modules)
    return work.with_settings(adapter=structs.replace(settings.adapter, target_modules=names))


def _adapted(content: dict[str, Any], work: Workload) -> Any:
    """The class that launch builds, with the plan's adapter, without memory."""
    from peft import get_peft_model

    config: Any = transformers.AutoConfig.for_model(**content)
    with quiet_libraries(), torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        assert work.settings.adapter is not None
        settings = lora_config(
            work.settings.adapter,
            transposed=stores_transposed(model),
            excluded=outside_of_text(model),
        )
        return get_peft_model(model, settings)


@pytest.mark.parametrize("name", MODELS)
def test_what_trains_is_what_peft_adapts(name: str) -> None:
    work = _workload(_traced(MODELS[name]), "lora")
    model = _adapted(MODELS[name], work)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert work.trainable_params == trained
    assert sum(tensor.elements for tensor in trained_tensors(work)) == trained
    base = sum(p.numel() for n, p in model.named_parameters() if ".lora_" not in n)
    assert work.model.num_params == base


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_trains_once_in_full(name: str) -> None:
    work = _workload(_traced(MODELS[name]), "full")
    assert all(each.elements for group in parameters(work).optimizer_groups for each in group)
    assert sum(tensor.elements for tensor in trained_tensors(work)) == work.model.num_params


def test_names_that_peft_takes_otherwise_are_left_out_and_said() -> None:
    mixture, mamba = (_workload(_traced(each), "lora") for each in (MIXTURE, FALCON_H1))
    assert mixture.settings.adapter is not None
    assert mixture.settings.adapter.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert mixture.adapter_note is not None
    assert mixture.adapter_note.startswith("no adapter on gate_proj, up_proj, down_proj, in any")
    assert mamba.adapter_note is not None
    assert mamba.adapter_note.startswith("no adapter on out_proj, ")
    assert _workload(_traced(HYBRID), "lora").adapter_note is None


def test_sizes_of_a_wrapper_are_those_of_its_text_model() -> None:
    for content in (GEMMA_4, QWEN_3_5):
        found = _traced(content)
        assert (found.num_layers, found.num_attention_heads, found.num_key_value_heads) == (2, 4, 2)
        assert (found.head_dim, found.intermediate_size) == (16, 128)
        assert found.max_position_embeddings == 256


def test_a_vision_tower_is_inside_or_left_out_as_the_class_has_it() -> None:
    gemma, qwen = _traced(GEMMA_4), _traced(QWEN_3_5)
    assert (gemma.towers, gemma.left_out) == (("model.vision_tower", "model.embed_vision"), ())
    assert (qwen.towers, qwen.left_out) == ((), ("vision_config",))
    assert gemma.active_weights == _traced(GEMMA_4_TEXT).active_weights
    adapted = [n for n, p in _adapted(GEMMA_4, _workload(gemma, "lora")).named_parameters()]
    assert any(".lora_" in name for name in adapted)
    assert not any(".lora_" in name and "vision" in name for name in adapted)


def test_a_body_under_a_head_is_no_tower() -> None:
    for content in (HYBRID, GPT, FALCON_H1, PROPHET):
        config: Any = transformers.AutoConfig.for_model(**content)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert towers(model) == ()


def test_of_experts_those_count_that_a_token_is_sent_to() -> None:
    dense, mixture = MIXTURE | {"moe_k": 8}, MIXTURE
    one_expert = 3 * 64 * 32
    saved = active_weights(_traced(dense)) - active_weights(_traced(mixture))
    assert saved == 2 * (8 - 2) * one_expert
