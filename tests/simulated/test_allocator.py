"""The replay reserves what PyTorch's allocator does, event by event, for whole training steps."""

from pathlib import Path
from typing import Any

import pytest

from launcher.run.read_plan import plan_text
from planner.allocator.replay import Allocate, AllocatorEvent, Free, replay
from tests.launcher.planned import planned
from tests.simulated.conftest import facts

PLANS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "shape": {"num_layers": 6}},
    "qlora": {"method": "qlora", "shape": {"num_layers": 6}},
}


@pytest.mark.parametrize("expandable", [False, True], ids=["segments", "expandable"])
@pytest.mark.parametrize("method", PLANS)
def test_a_step_reserves_what_the_replay_says(
    method: str, expandable: bool, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(plan_text(planned(name="llama-3.1-8b", **PLANS[method])))
    setting = f"expandable_segments:{expandable}"
    seen = facts("h100", "child_trace", str(path), PYTORCH_ALLOC_CONF=setting)
    events: list[AllocatorEvent] = [
        Allocate(key, *request) if request else Free(key) for key, *request in seen["events"]
    ]
    assert len(events) > 1_000
    found = replay(events, expandable_segments=expandable)
    assert list(found.reserved_bytes) == seen["reserved"]
