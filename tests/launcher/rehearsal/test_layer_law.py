"""A micro-batch laid out from a few layers, against the same one traced with all of them."""

import json
from typing import Any

import pytest
import transformers
from msgspec import structs

from launcher.rehearsal import layer_law
from launcher.rehearsal.layer_law import Range, members, pass_phases
from launcher.rehearsal.phases import Phases
from launcher.rehearsal.rehearse import quiet_libraries, traced
from launcher.rehearsal.trace_service import shape
from planner.base.errors import UserError
from planner.models.adapter_targets import lora_targets
from planner.models.traced_model import traced_spec
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method
from planner.recipes.load_recipe import load_recipe
from planner.training_stack.trace_client import plan_to_trace
from planner.workload.layout import Layout
from planner.workload.settings import settings_of
from planner.workload.workload import Workload
from tests.launcher.rehearsal.test_trace_service import HYBRID, MIXTURE
from tests.launcher.rehearsal.test_traced_adapters import (
    DECODER,
    FALCON_H1,
    GEMMA_3N,
    GEMMA_4_TEXT,
    GPT,
)

WINDOWS = DECODER | {
    "model_type": "olmo3",
    "num_hidden_layers": 8,
    "sliding_window": 32,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DELTA_NET = DECODER | {
    "model_type": "qwen3_next",
    "num_hidden_layers": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
STATE_SPACES = DECODER | {
    "model_type": "granitemoehybrid",
    "num_hidden_layers": 8,
    "layer_types": ["mamba", "mamba", "mamba", "attention"] * 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}
SCORES_BESIDE = {
    "model_type": "codegen",
    "vocab_size": 512,
    "n_embd": 64,
    "n_layer": 6,
    "n_head": 4,
    "n_positions": 256,
    "n_ctx": 256,
    "rotary_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
"""Its model holds the attention scores of one layer during the next."""
STATES_BESIDE = {
    "model_type": "xlstm",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_heads": 4,
    "chunk_size": 32,
}
"""Its model holds the states of one layer, which are several tensors, during the next."""
SEVERAL_TIMES = {name: size for name, size in DECODER.items() if name != "num_hidden_layers"} | {
    "model_type": "hrm_text",
    "num_layers_per_stack": 6,
    "H_cycles": 2,
    "L_cycles": 2,
    "L_bp_cycles": [1, 2],
}
"""Its model goes through a stack of layers four times, and of the first three once without a
gradient."""
CHOSEN_TOKENS = DECODER | {
    "model_type": "hy_v4",
    "num_hidden_layers": 10,
    "indexer_types": ["full", *["full", "shared", "shared", "shared"] * 2, "full"],
    "mlp_layer_types": ["dense"] * 10,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "index_topk": 16,
    "index_head_dim": 32,
    "index_n_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
"""Its indexer chooses tokens in some layers, which hand them on to those after them."""
MODELS: dict[str, tuple[dict[str, Any], Range]] = {
    "windows": (WINDOWS, "alike"),
    "convolutions": (
        HYBRID
        | {"num_hidden_layers": 8, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
        "alike",
    ),
    "mixture-after-a-dense-layer": (
        MIXTURE | {"num_hidden_layers": 6, "moe_layer_start_index": 1},
        "alike",
    ),
    "tied-embeddings": (
        GEMMA_4_TEXT
        | {
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        },
        "alike",
    ),
    "conv1d": (GPT | {"n_layer": 6}, "alike"),
    "delta-net": (DELTA_NET, "alike"),
    "state-spaces": (STATE_SPACES, "alike"),
    "both-in-a-layer": (FALCON_H1 | {"num_hidden_layers": 6}, "alike"),
    "shared-keys": (GEMMA_3N, "between"),
    "scores-beside": (SCORES_BESIDE, "alike"),
    "states-beside": (STATES_BESIDE, "alike"),
    "several-times": (SEVERAL_TIMES, "alike"),
    "chosen-tokens": (CHOSEN_TOKENS, "alike"),
}
"""Configurations, and which of their layers are alike."""


NEVER_PACKED = {
    "shared-keys": "clamps matrices of Gemma 3n",
    "chosen-tokens": "casts what HY-V4's indexer is given to the dtype of a matrix",
}
"""Models that no 4-bit training can run, and why."""


def plan_of(content: dict[str, Any], method: Method, *, samples: int, recomputed: bool) -> Plan:
    config: Any = transformers.AutoConfig.for_model(**content)
    known = {name: value for name, value in config.to_dict().items() if value is not None}
    with quiet_libraries():
        spec = traced_spec(shape(known), content["model_type"], json.dumps(known))
    settings = settings_of(load_recipe(method))
    work = Workload(model=spec, settings=settings, compute="bf16").with_settings(
        sequence_length=64, loss=spec.loss, attention=spec.attention
    )
    if settings.adapter is not None:
        targets = lora_targets(spec, settings.adapter.target_modules)
        adapter = structs.replace(settings.adapter, target_modules=targets)
        work = work.with_settings(adapter=adapter)
    layout = Layout(
        strategy="single",
        world_size=1,
        micro_batch_size=samples,
        gradient_accumulation_steps=1,
        activation_checkpointing=recomputed,
        checkpoint_every=1,
    )
    return plan_to_trace(work, layout)


def of_one_pass(phases: Phases) -> Phases:
    """Return what a micro-batch adds: not what the model and its optimizer hold before it."""
    parts = ("activations", "loss", "workspace", "gradients")
    return {
        phase: {part: size for part, size in phases[phase].items() if part in parts}
        for phase in ("forward", "backward")
    }


def assert_law(alike: Range, plan: Plan, more: Plan) -> None:
    """Hold the law to the whole trace twice: as it is proved, and as it is used afterwards."""
    layer_law.proved_laws().clear()
    layer_law.last_laws().clear()
    with quiet_libraries():
        assert of_one_pass(pass_phases(plan)) == of_one_pass(traced(plan).phases)
        (law,) = layer_law.proved_laws().values()
        assert law is not None
        assert [law.range, *layer_law.last_laws().values()] == [alike, alike]
        assert of_one_pass(pass_phases(more)) == of_one_pass(traced(more).phases)
    assert len(layer_law.proved_laws()) == 1


@pytest.mark.parametrize(
    ("name", "method", "recomputed"),
    [
        ("windows", "lora", True),
        ("mixture-after-a-dense-layer", "full", False),
        ("conv1d", "full", False),
        ("scores-beside", "lora", True),
    ],
)
def test_a_few_layers_take_what_all_take(name: str, method: Method, recomputed: bool) -> None:
    content, law = MODELS[name]
    first, more = (plan_of(content, method, samples=n, recomputed=recomputed) for n in (2, 3))
    assert_law(law, first, more)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"conv1d"}))
@pytest.mark.parametrize(("method", "recomputed"), [("qlora", False), ("full", True)])
def test_a_few_layers_of_every_pattern(name: str, method: Method, recomputed: bool) -> None:
    if method == "qlora" and name in NEVER_PACKED:
        pytest.skip(f"transformers {NEVER_PACKED[name]} that bitsandbytes has packed")
    content, law = MODELS[name]
    first, more = (plan_of(content, method, samples=n, recomputed=recomputed) for n in (2, 3))
    assert_law(law, first, more)


def test_a_micro_batch_that_takes_too_long_is_not_traced_any_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, _ = MODELS["conv1d"]
    monkeypatch.setattr(layer_law, "MOST_TRACING_S", 0)
    layer_law.proved_laws().clear()
    with quiet_libraries(), pytest.raises(UserError, match="Choose a shorter --sequence-length"):
        pass_phases(plan_of(content, "lora", samples=1, recomputed=False))


def test_every_kind_of_layer_is_traced_and_proved_far_from_where_it_is_first() -> None:
    assert members("aaabaaab", "alike", proving=True) == ((0, 1, 1, 3, 1, 1, 1, 7), ((1, 6),))
    assert members("aaabaaaba", "alike", proving=True).proofs == ((1, 6), (3, 7))
    assert members("aaaaa", "between", proving=True) == ((0, 1, 1, 1, 4), ((1, 3),))
    assert members("abc", "alike", proving=True) == ((0, 1, 2), ())
    assert members("aaabaaab", "alike", proving=False).traced == {0, 1, 3, 7}
