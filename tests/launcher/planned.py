"""Plans that the planner itself makes, of models small enough for a test."""

from typing import Any

from msgspec import structs

from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.models.model_presets import load_model
from planner.models.model_spec import ModelSpec
from planner.plan.schema import Plan
from tests.planner.builders import cards

SHAPE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 8192,
    "max_position_embeddings": 1024,
}


def planned(
    count: int = 1,
    *,
    name: str = "chatglm3-6b-base",
    shape: dict[str, Any] = SHAPE,
    **pinned: Any,
) -> Plan:
    """What plan makes of a small model for cards."""
    preset = load_model(name)
    spec: ModelSpec = structs.replace(preset.spec, **shape)
    request = Request(
        model=structs.replace(preset, spec=spec),
        cluster=cards(count, 24),
        sequence_length=512,
        global_batch_size=2 * count,
        **pinned,
    )
    return plan_of(decide(request))
