"""Configuration files as they are published, and as people break them."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidFileError, NoFormulasError
from planner.cli.model_option import load_model_dir
from planner.models.config_json import config_from_spec, spec_from_config
from planner.models.model_presets import load_model
from planner.models.model_spec import Heads

CHATGLM3_6B: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "quantization_bit": 0,
    "rmsnorm": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
}
LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "attention_bias": False,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA_3_2_3B: dict[str, Any] = {
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 32.0, "rope_type": "llama3"},
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32768,
}
QWEN_2_5_0_5B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GLM_4_9B: dict[str, Any] = {
    "model_type": "glm",
    "attention_bias": True,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
QWEN3_8B: dict[str, Any] = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
PHI_4: dict[str, Any] = {
    "model_type": "phi3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "resid_pdrop": 0.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
GLM_4_9B_0414: dict[str, Any] = {
    "model_type": "glm4",
    "attention_bias": True,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
GEMMA_2_9B: dict[str, Any] = {
    "model_type": "gemma2",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "vocab_size": 256000,
}
GEMMA_3_270M: dict[str, Any] = {
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": 3 * [*5 * ["sliding_attention"], "full_attention"],
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "sliding_window": 512,
    "use_bidirectional_attention": False,
    "vocab_size": 262144,
}
OLMO_2_13B: dict[str, Any] = {
    "model_type": "olmo2",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "max_position_embeddings": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
GRANITE_3_1_8B: dict[str, Any] = {
    "model_type": "granite",
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "residual_multiplier": 0.22,
    "tie_word_embeddings": True,
    "vocab_size": 49155,
}
SMOLLM3_3B: dict[str, Any] = {
    "model_type": "smollm3",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "layer_types": 36 * ["full_attention"],
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": 9 * [1, 1, 1, 0],
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
PATH = Path("config.json")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("chatglm3-6b", CHATGLM3_6B),
        ("llama-2-7b", LLAMA_2_7B),
        ("llama-3.2-3b", LLAMA_3_2_3B),
        ("smollm2-135m", SMOLLM2_135M),
        ("mistral-7b", MISTRAL_7B),
        ("qwen2.5-0.5b", QWEN_2_5_0_5B),
        ("glm-4-9b", GLM_4_9B),
        ("glm-4-9b-0414", GLM_4_9B_0414),
        ("phi-4", PHI_4),
        ("qwen3-8b", QWEN3_8B),
        ("gemma-2-9b", GEMMA_2_9B),
        ("gemma-3-270m", GEMMA_3_270M),
        ("olmo-2-13b", OLMO_2_13B),
        ("granite-3.1-8b-instruct", GRANITE_3_1_8B),
        ("smollm3-3b", SMOLLM3_3B),
    ],
)
def test_published_files_are_the_presets(name: str, config: dict[str, Any]) -> None:
    assert spec_from_config(config, PATH) == load_model(name).spec


def test_old_files_have_no_grouped_heads() -> None:
    first_llama = {key: LLAMA_2_7B[key] for key in LLAMA_2_7B if key != "num_key_value_heads"}
    assert spec_from_config(first_llama, PATH).num_key_value_heads == 32


def test_null_is_a_key_left_out() -> None:
    spec = spec_from_config(MISTRAL_7B | {"head_dim": None, "num_key_value_heads": None}, PATH)
    assert (spec.head_dim, spec.num_key_value_heads) == (128, 32)


def test_llama_biases_cover_the_output_projection() -> None:
    spec = spec_from_config(LLAMA_2_7B | {"attention_bias": True}, PATH)
    assert (spec.qkv_bias, spec.output_bias) == (True, True)


@pytest.mark.parametrize(
    ("rope", "fraction"),
    [
        ({"partial_rotary_factor": 0.25}, 0.25),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, 0.25),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}}, 0.25),
        ({"rope_parameters": {"rope_type": "default"}}, 1.0),
    ],
)
def test_rotary_fraction(rope: dict[str, Any], fraction: float) -> None:
    assert spec_from_config(LLAMA_2_7B | rope, PATH).rotary_fraction == fraction


def test_windows_of_qwen_begin_behind_the_first_layers() -> None:
    windows = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}
    spec = spec_from_config(QWEN3_8B | windows, PATH)
    assert [kind.sliding_window for kind in spec.layers] == 28 * [None] + 8 * [4096]
    unused = spec_from_config(QWEN3_8B | windows | {"max_window_layers": 36}, PATH)
    assert unused == load_model("qwen3-8b").spec


def test_a_list_of_layers_outweighs_the_rule() -> None:
    every_third = 14 * [*2 * ["sliding_attention"], "full_attention"]
    spec = spec_from_config(GEMMA_2_9B | {"layer_types": every_third}, PATH)
    assert spec.full_attention_every == 3
    no_window = spec_from_config(GEMMA_2_9B | {"layer_types": 42 * ["full_attention"]}, PATH)
    assert no_window.sliding_window is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the key 'model_type' is missing"),
        ({"model_type": 3}, "model_type: 3 is not text"),
        ({"model_type": "t5"}, "no formulas for 't5'"),
        ({"model_type": "a\0b"}, "model_type: 'a\\x00b' is not a name of an architecture"),
        ({"model_type": "a" * 101}, "is not a name of an architecture"),
        ({"model_type": "\x1b[31m"}, "model_type: '\\x1b[31m' is not a name of an architecture"),
        (LLAMA_2_7B | {"num_hidden_layers": 10**6}, "it has 1,000,000 layers, and at most 2,000"),
        ({"model_type": "llama"}, "the key 'hidden_size' is missing: copy the model's own"),
        (LLAMA_2_7B | {"vocab_size": "32000"}, "vocab_size: '32000' is not a whole number"),
        (LLAMA_2_7B | {"vocab_size": 0}, "vocab_size: 0 is not a whole number above 0"),
        (LLAMA_2_7B | {"vocab_size": True}, "vocab_size: True is not a whole number"),
        (LLAMA_2_7B | {"tie_word_embeddings": "no"}, "'no' is neither true nor false"),
        (LLAMA_2_7B | {"partial_rotary_factor": 2}, "2 is not a number from 0 to 1"),
        (LLAMA_2_7B | {"rope_parameters": 1e4}, "rope_parameters: 10000.0 is not a mapping"),
        (LLAMA_2_7B | {"num_key_value_heads": 5}, "must be a multiple of num_key_value_heads"),
        (LLAMA_2_7B | {"mlp_bias": True}, "mlp_bias: True has no formulas"),
        (PHI_4 | {"resid_pdrop": 0.1}, "resid_pdrop: 0.1 has no formulas: dropout"),
        (
            LLAMA_2_7B | {"hidden_act": "mish"},
            "hidden_act: 'mish' has no formulas: an activation",
        ),
        (GEMMA_2_9B | {"attn_logit_softcapping": 0}, "0 is not a number above 0"),
        (GEMMA_2_9B | {"layer_types": ["full_attention"]}, "a list of one entry for each of 42"),
        (
            GEMMA_2_9B | {"layer_types": [*41 * ["full_attention"], "sliding_attention"][::-1]},
            "has no formulas: such an order of windows",
        ),
        (GEMMA_2_9B | {"use_bidirectional_attention": True}, "it is not a causal language model"),
        (SMOLLM3_3B | {"no_rope_layers": [0, *35 * [1]]}, "no_rope_layers: [0, 1, 1"),
        (LLAMA_2_7B | {"quantization_config": {"bits": 4}}, "its weights are quantized"),
        (CHATGLM3_6B | {"quantization_bit": 4}, "its weights are quantized"),
        (CHATGLM3_6B | {"add_bias_linear": True}, "add_bias_linear: True has no formulas"),
        (CHATGLM3_6B | {"rmsnorm": False}, "rmsnorm: False has no formulas"),
        (CHATGLM3_6B | {"multi_query_attention": False}, "multi_query_attention: it must be true"),
        (CHATGLM3_6B | {"vision_config": {"hidden_size": 1792}}, "vision_config: it holds a model"),
        ({"model_type": "chatglm", "position_encoding_2d": True}, "is the first ChatGLM-6B, which"),
        ({"model_type": "chatglm", "multi_query_attention": True}, "'num_layers' is missing"),
    ],
)
def test_errors_are_one_line_with_the_file(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        spec_from_config(config, PATH)
    text = str(caught.value)
    assert message in text
    assert text.startswith("config.json: ")
    assert "\n" not in text


def test_a_directory_is_read_like_a_preset(tmp_path: Path) -> None:
    directory = tmp_path / "my-chatglm"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CHATGLM3_6B))
    preset = load_model_dir(directory)
    assert preset.name == "my-chatglm"
    assert preset.hub_id == str(directory)
    assert preset.native_class == "GlmForCausalLM"
    assert preset.expected_params == preset.spec.num_params == 6_243_584_000


def test_the_current_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2_135M))
    monkeypatch.chdir(tmp_path)
    assert load_model_dir(Path()).name == tmp_path.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no config.json. Name a model's directory or a preset"),
        ('{\n  "model_type": "llama",\n}', "config.json:3: not JSON: "),
        ("", "config.json:1: not JSON: "),
        ("[]", "config.json: holds no keys"),
        (b"\xff\xfe", "config.json: is not UTF-8 text"),
    ],
)
def test_broken_directories(tmp_path: Path, text: str | bytes | None, message: str) -> None:
    if text is not None:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidFileError) as caught:
        load_model_dir(tmp_path)
    assert message in str(caught.value)


FALCON_40B = {
    "alibi": False,
    "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 8192,
    "model_type": "falcon",
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
    "parallel_attn": True,
    "vocab_size": 65024,
}
STARCODER2_15B = {
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
    "embedding_dropout": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "max_position_embeddings": 16384,
    "model_type": "starcoder2",
    "num_attention_heads": 48,
    "num_hidden_layers": 40,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "use_bias": True,
    "vocab_size": 49152,
}
OPT_1_3B = {
    "_remove_final_layer_norm": False,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 8192,
    "hidden_size": 2048,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "vocab_size": 50272,
    "word_embed_proj_dim": 2048,
}
BLOOMZ_7B1 = {
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "model_type": "bloom",
    "n_embed": 4096,
    "n_inner": None,
    "n_layer": 30,
    "num_attention_heads": 32,
    "pretraining_tp": 4,
    "seq_length": 2048,
    "slow_but_exact": False,
    "vocab_size": 250880,
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("falcon-40b", FALCON_40B),
        ("starcoder2-15b", STARCODER2_15B),
        ("opt-1.3b", OPT_1_3B),
        ("bloomz-7b1", BLOOMZ_7B1),
    ],
)
def test_published_files_of_the_gpt_line(name: str, config: dict[str, Any]) -> None:
    assert spec_from_config(config, PATH) == load_model(name).spec


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (FALCON_40B, {"alibi": True}),
        (FALCON_40B, {"hidden_dropout": 0.1}),
        (FALCON_40B, {"new_decoder_architecture": False, "multi_query": False}),
        (OPT_1_3B, {"do_layer_norm_before": False}),
        (OPT_1_3B, {"word_embed_proj_dim": 512}),
        (BLOOMZ_7B1, {"attention_dropout": 0.1}),
        (STARCODER2_15B, {"hidden_act": "mish"}),
    ],
)
def test_shapes_that_the_ledger_does_not_know(
    config: dict[str, Any], changed: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFileError, match="has no formulas"):
        spec_from_config(config | changed, PATH)


QWEN_3_5: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "vocab_size": 248320,
    "max_position_embeddings": 32768,
}


def test_one_in_four_layers_of_qwen_3_5_attends_unless_a_list_says_otherwise() -> None:
    spec = spec_from_config(QWEN_3_5, Path("config.json"))
    assert [kind.recurrent for kind in spec.layers] == [True, True, True, False] * 2
    types = ["linear_attention", "full_attention"] * 4
    spec = spec_from_config(QWEN_3_5 | {"layer_types": types}, Path("config.json"))
    assert [kind.recurrent for kind in spec.layers] == [True, False] * 4


def test_of_a_wrapper_the_text_model_is_read_and_what_is_left_out_is_named() -> None:
    wrapper = {"model_type": "qwen3_5", "text_config": QWEN_3_5, "vision_config": {"depth": 27}}
    spec = spec_from_config(wrapper, Path("config.json"))
    assert spec.left_out == ("vision_config",)
    alone = spec_from_config(QWEN_3_5, Path("config.json"))
    assert spec.num_params == alone.num_params
    assert alone.left_out == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            QWEN_3_5 | {"layer_types": ["full_attention", "linear_attention"] * 4},
            "layer_types: .* has no formulas: such an order of layers",
        ),
        (
            LLAMA_2_7B | {"model_type": "cohere2", "layer_types": ["full_attention"] * 32},
            "layer_types: .* has no formulas: layers with and without a window must alternate",
        ),
        (
            LLAMA_2_7B | {"model_type": "cohere", "use_qk_norm": True},
            "use_qk_norm: True has no formulas",
        ),
        (
            LLAMA_2_7B
            | {"model_type": "glm4_moe_lite", "mlp_layer_types": ["sparse", "dense"] * 16},
            "mlp_layer_types: .* has no formulas: such an order of layers",
        ),
    ],
)
def test_what_a_shape_cannot_express_is_traced(config: dict[str, Any], message: str) -> None:
    with pytest.raises(NoFormulasError, match=message):
        spec_from_config(config, Path("config.json"))


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
def test_experts_of_qwen_have_one_of_two_names(key: str) -> None:
    config = LLAMA_2_7B | {"model_type": "qwen3_moe", key: 160}
    spec = spec_from_config(config, Path("config.json"))
    assert spec.experts is not None
    assert spec.experts.num_experts == 160


def test_the_share_that_rotates_is_the_dimensions_that_minimax_lists() -> None:
    config = LLAMA_2_7B | {"model_type": "minimax_m2", "rotary_dim": 64, "head_dim": 128}
    assert spec_from_config(config, Path("config.json")).rotary_fraction == 0.5


GRANITE_4_H_TINY: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "intermediate_size": 512,
    "shared_intermediate_size": 1024,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
    "vocab_size": 100352,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "position_embedding_type": "nope",
    "layer_types": ["attention" if number in (5, 15, 25, 35) else "mamba" for number in range(40)],
}
LFM2_1_2B: dict[str, Any] = {
    "model_type": "lfm2",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "block_ff_dim": 12288,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 65536,
    "max_position_embeddings": 128000,
}
NEMOTRON_H_56B: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "num_hidden_layers": 118,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-" + "M-M-M-M-M*-" * 8 + "M-M-M-M-M-",
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 131072,
    "max_position_embeddings": 8192,
    "mamba_num_heads": 256,
    "ssm_state_size": 256,
}
JAMBA: dict[str, Any] = {
    "model_type": "jamba",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 65536,
    "max_position_embeddings": 262144,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_dt_rank": 256,
    "use_mamba_kernels": True,
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("granite-4.0-h-tiny", GRANITE_4_H_TINY),
        ("jamba-v0.1", JAMBA),
        ("lfm2-1.2b", LFM2_1_2B),
        ("nemotron-h-56b-base-8k", NEMOTRON_H_56B),
    ],
)
def test_files_of_hybrids_in_the_words_of_their_authors(name: str, config: dict[str, Any]) -> None:
    assert spec_from_config(config, PATH) == load_model(name).spec


def test_jamba_has_attention_and_experts_where_periods_and_offsets_say() -> None:
    changes = {"attn_layer_period": 3, "attn_layer_offset": 0, "expert_layer_period": 4}
    spec = spec_from_config(JAMBA | {"num_hidden_layers": 8} | changes, PATH)
    assert [n for n, kind in enumerate(spec.layers) if kind.attends] == [0, 3, 6]
    assert [n for n, kind in enumerate(spec.layers) if kind.routed] == [1, 5]
    assert spec_from_config(config_from_spec(spec), PATH) == spec
    alone = spec_from_config(JAMBA | {"num_hidden_layers": 4, "num_experts": 1}, PATH)
    assert alone.experts is None
    assert not any(kind.attends for kind in alone.layers)
    assert spec_from_config(config_from_spec(alone), PATH) == alone
    with pytest.raises(InvalidFileError, match=r"attn_layer_offset \(8\) must be below"):
        spec_from_config(JAMBA | {"attn_layer_offset": 8}, PATH)


def test_heads_of_a_mixer_must_fill_its_width() -> None:
    with pytest.raises(InvalidFileError, match=r"mamba_n_heads \(48\) times mamba_d_head \(32\)"):
        spec_from_config(GRANITE_4_H_TINY | {"mamba_d_head": 32}, PATH)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (GRANITE_4_H_TINY | {"layer_types": ["sliding_attention"] * 40}, "layer_types"),
        (NEMOTRON_H_56B | {"hybrid_override_pattern": "M?"}, "hybrid_override_pattern"),
        (LFM2_1_2B | {"layer_types": ["conv", "mamba"] * 8}, "layer_types"),
    ],
)
def test_layers_that_no_letter_says_are_traced(config: dict[str, Any], key: str) -> None:
    with pytest.raises(NoFormulasError, match=f"{key}: .* has no formulas: such layers"):
        spec_from_config(config, PATH)


LLAMA_4: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "num_hidden_layers": 8,
    "num_attention_heads": 40,
    "vocab_size": 202048,
    "max_position_embeddings": 262144,
}
GEMMA_4: dict[str, Any] = {
    "model_type": "gemma4_text",
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 262144,
    "max_position_embeddings": 131072,
}


def test_llama_4_in_its_wrapper_has_chunks_where_it_turns_and_experts_where_it_lists_them() -> None:
    text = LLAMA_4 | {
        "moe_layers": [1, 3, 5, 7],
        "no_rope_layers": [],
        "attn_temperature_tuning": 4,
    }
    wrapper = {"model_type": "llama4", "text_config": text, "vision_config": {}}
    spec = spec_from_config(wrapper, PATH)
    assert spec.left_out == ("vision_config",)
    assert spec.tempered_attention
    assert [kind.routed for kind in spec.layers] == [False, True] * 4
    assert [kind.rotates for kind in spec.layers] == [True, True, True, False] * 2
    assert [kind.sliding_window for kind in spec.layers] == [8192, 8192, 8192, None] * 2


def test_the_last_layers_of_gemma_4_read_what_the_last_of_their_kind_before_them_store() -> None:
    spec = spec_from_config(GEMMA_4 | {"num_kv_shared_layers": 6}, PATH)
    sharing = [kind.sharing for kind in spec.layers]
    assert sharing == ["none"] * 4 + ["stores"] * 2 + ["reads"] * 6
    assert [number for number, kind in enumerate(spec.layers) if kind.closes] == [10, 11]
    names = {matrix.name for matrix in spec.linears(spec.layers[-1])}
    assert "q_proj" in names
    assert not names & {"k_proj", "v_proj"}


def test_heads_of_gemma_4_are_read_as_transformers_writes_them_too() -> None:
    full = {"5": {"head_dim": 512, "num_key_value_heads": 2}}
    written = spec_from_config(GEMMA_4 | {"per_layer_config": full}, PATH)
    keys = {"attention_k_eq_v": True, "num_global_key_value_heads": 2}
    published = spec_from_config(GEMMA_4 | keys, PATH)
    for spec in (written, published):
        assert spec.heads(spec.layers[-1]) == Heads(8, 2, 512)
    names = {matrix.name for matrix in published.linears(published.layers[-1])}
    assert "k_proj" in names
    assert "v_proj" not in names


def test_gemma_4_in_its_wrapper_stands_beside_what_the_file_states() -> None:
    wrapper = {"model_type": "gemma4", "text_config": GEMMA_4}
    alone = spec_from_config(wrapper | {"vision_config": None}, PATH)
    seeing = spec_from_config(wrapper | {"vision_config": {}}, PATH)
    assert alone.towers == ()
    assert alone.num_params == spec_from_config(GEMMA_4, PATH).num_params
    assert seeing.towers == ("model.vision_tower", "model.embed_vision")
    assert seeing.num_params - alone.num_params == 167_364_608 + 768 * 1536
    heard = {"audio_config": {"subsampling_conv_channels": [1, 8]}}
    with pytest.raises(InvalidFileError, match="are no channels"):
        spec_from_config(wrapper | heard, PATH)


@pytest.mark.parametrize("topk", [8, [8] * 8])
def test_hunyuan_has_numbers_once_for_all_layers_or_for_each(topk: object) -> None:
    keys = {"model_type": "hunyuan_v1_moe", "num_experts": 64, "moe_topk": topk}
    spec = spec_from_config(LLAMA_4 | keys, PATH)
    assert spec.experts is not None
    assert spec.experts.experts_per_token == 8


def test_of_ernie_what_corrects_the_choice_never_trains_and_the_router_stays_in_fp32() -> None:
    keys = {"model_type": "ernie4_5_moe", "moe_layer_end_index": 5}
    spec = spec_from_config(LLAMA_4 | keys, PATH)
    assert [kind.routed for kind in spec.layers] == [False, *[True] * 5, False, False]
    assert spec.untrained_params == 5 * 64
    assert spec.fp32_params == 5 * (64 * 5120 + 64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (LLAMA_4 | {"no_rope_layers": [1, 0, 0, 1, 1, 0, 0, 1]}, "such an order of layers"),
        (LLAMA_4 | {"moe_layers": [0, 3]}, "such an order of layers"),
        (LLAMA_4 | {"layer_types": ["full_attention"] * 8}, "such an order of layers"),
        (GEMMA_4 | {"num_hidden_layers": 13}, "such an order of windows"),
        (GEMMA_4 | {"use_bidirectional_attention": "all"}, "not a causal language model"),
        (LLAMA_4 | {"model_type": "glm_moe_dsa", "index_topk_freq": 4}, "share an indexer"),
        (
            LLAMA_4 | {"model_type": "hunyuan_v1_moe", "moe_topk": [1, 2] * 4, "num_experts": 4},
            "layers that differ in it",
        ),
    ],
)
def test_orders_of_layers_that_no_formula_knows(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(NoFormulasError, match=message):
        spec_from_config(changed, PATH)
