"""Steps that cannot be traced: one line that says where a class fails, why, and what to do."""

import pytest
from msgspec import structs, to_builtins

from launcher.rehearsal.trace_failures import explained
from launcher.rehearsal.trace_service import answer, shape
from planner.base.errors import UserError
from planner.base.phrases import from_data
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method
from tests.launcher.rehearsal.test_layer_law import CHOSEN_TOKENS, plan_of
from tests.launcher.rehearsal.test_trace_service import PLAIN

BYTES = {
    "model_type": "blt",
    "vocab_size": 32,
    "encoder_hash_byte_group_size": [2],
    "encoder_hash_byte_group_vocab": 32,
    "patcher_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "encoder_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "decoder_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "global_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}
"""A model of bytes: an encoder before its layers, and a decoder behind them."""


RECURRENT = {
    "model_type": "mamba",
    "vocab_size": 512,
    "hidden_size": 64,
    "state_size": 8,
    "num_hidden_layers": 2,
    "time_step_rank": 8,
}


@pytest.fixture(scope="module")
def plain() -> dict[Method, Plan]:
    methods: tuple[Method, ...] = ("qlora", "full")
    return {each: plan_of(PLAIN, each, samples=1, recomputed=True) for each in methods}


@pytest.mark.parametrize(
    ("method", "recomputed", "packed", "said"),
    [
        ("full", False, True, "recompute activations (ValueError: no). Choose --no-activation-che"),
        (
            "qlora",
            True,
            False,
            "work on packed matrices (ValueError: no). Choose --method lora",
        ),
        ("qlora", False, False, "Choose --method lora --no-activation-checkpointing"),
        ("full", None, True, "sizes instead of values (ValueError: no). Choose another model: no "),
    ],
)
def test_what_is_at_fault_is_what_the_step_can_be_traced_without(
    plain: dict[Method, Plan], method: Method, recomputed: bool | None, packed: bool, said: str
) -> None:
    def can_be_traced(plan: Plan) -> bool:
        if recomputed is None or (plan.activation_checkpointing and not recomputed):
            return False
        return plan.quantization is None or packed

    error = explained(plain[method], ValueError("no.\n"), can_be_traced=can_be_traced)
    assert said in error.message


def test_a_matrix_whose_dtype_is_asked_for_cannot_be_packed() -> None:
    plan = plan_of(CHOSEN_TOKENS, "qlora", samples=1, recomputed=False)
    said = from_data(answer({"trace": to_builtins(plan)})["error"])
    assert said.startswith(
        "its code cannot work on packed matrices (HYV4Indexer in transformers, "
        "modeling_hy_v4.py line "
    )
    assert said.endswith("Choose --method lora")


def test_a_loop_over_tokens_is_refused_with_the_length_that_can_be_traced() -> None:
    plan = plan_of(RECURRENT, "lora", samples=1, recomputed=False)
    longer = structs.replace(plan, batch=structs.replace(plan.batch, sequence_length=512))
    said = from_data(answer({"trace": to_builtins(longer)})["error"])
    assert said == (
        "its code loops over every token, which takes minutes to trace. Choose --sequence-length "
        "256 or less"
    )
    assert "phases" in answer({"trace": to_builtins(plan)})


def test_a_model_of_several_stacks_is_refused_before_it_is_traced() -> None:
    with pytest.raises(UserError, match=r"texts pass model\.local_encoder, model\.local_decoder"):
        shape(BYTES)
