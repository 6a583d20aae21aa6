"""Counts against numbers that others printed; whole models are in tests/oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError, convert, structs, to_builtins

from planner.models.linear import Linear
from planner.models.model_spec import ModelSpec

CHATGLM3_6B = ModelSpec(
    model_type="glm",
    num_layers=28,
    hidden_size=4096,
    intermediate_size=13_696,
    num_attention_heads=32,
    num_key_value_heads=2,
    head_dim=128,
    vocab_size=65_024,
    max_position_embeddings=8192,
    qkv_bias=True,
    mlp="fused-swiglu",
    rotary_fraction=0.5,
)
LLAMA_2_7B = ModelSpec(
    model_type="llama",
    num_layers=32,
    hidden_size=4096,
    intermediate_size=11_008,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32_000,
    max_position_embeddings=4096,
)


def test_linear_counts_its_bias() -> None:
    linear = Linear(name="q_proj", role="q_proj", in_features=3, out_features=5, bias=True)
    assert (linear.weight_params, linear.num_params) == (15, 20)


def test_chatglm3_6b() -> None:
    """torchinfo's printed summary of THUDM/chatglm3-6b has these rows."""
    spec = CHATGLM3_6B
    assert spec.num_params == 6_243_584_000
    assert spec.largest_layer_params == 203_960_832
    assert spec.embedding_params == spec.head_params == 266_338_304
    assert spec.matrix_params == 5_710_544_896
    shapes = {x.name: (x.in_features, x.out_features, x.bias) for x, _ in spec.counted_linears}
    assert shapes == {
        "q_proj": (4096, 4096, True),
        "k_proj": (4096, 256, True),
        "v_proj": (4096, 256, True),
        "o_proj": (4096, 4096, False),
        "gate_up_proj": (4096, 27_392, False),
        "down_proj": (13_696, 4096, False),
    }


def test_llama_2_7b() -> None:
    """6.7 B in arXiv:2307.09288, table 1; the exact count is that of the checkpoint."""
    assert LLAMA_2_7B.num_params == 6_738_415_616
    assert LLAMA_2_7B.largest_layer_params == 202_383_360


def test_tied_embeddings_are_counted_once() -> None:
    tied = structs.replace(LLAMA_2_7B, tied_embeddings=True)
    assert tied.head_params == 0
    assert LLAMA_2_7B.num_params - tied.num_params == LLAMA_2_7B.embedding_params


def test_what_quantization_leaves() -> None:
    """Two embeddings, and in each layer two norms and the biases, and the last norm."""
    layer = 2 * 4096 + 4096 + 2 * 256
    assert CHATGLM3_6B.unquantized_params == 2 * 266_338_304 + 28 * layer + 4096


def test_heads_must_divide() -> None:
    shape = to_builtins(LLAMA_2_7B) | {"num_key_value_heads": 5}
    with pytest.raises(ValidationError, match=r"num_attention_heads \(32\) must be a multiple"):
        convert(shape, ModelSpec)


@given(
    key=st.sampled_from(
        ["num_layers", "hidden_size", "intermediate_size", "head_dim", "vocab_size"]
    ),
    more=st.integers(min_value=1, max_value=1000),
)
def test_larger_is_more(key: str, more: int) -> None:
    larger = structs.replace(LLAMA_2_7B, **{key: getattr(LLAMA_2_7B, key) + more})
    assert larger.num_params > LLAMA_2_7B.num_params


def test_windows_alternate() -> None:
    """Gemma 2: every second layer sees everything."""
    alternating = structs.replace(
        LLAMA_2_7B, num_layers=5, sliding_window=64, full_attention_every=2
    )
    windows = [kind.sliding_window for kind in alternating.layers]
    assert windows == [64, None, 64, None, 64]
    assert list(alternating.kinds.values()) == [3, 2]
