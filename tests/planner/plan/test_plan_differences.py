"""Every key in which plans differ is found, and nothing else."""

from typing import Any

import pytest
from msgspec import to_builtins

from planner.plan.plan_differences import differing_keys, plan_differences
from tests.launcher.plans import full, plan


def test_equal_plans_have_no_differences() -> None:
    assert plan_differences([plan(), plan(), plan()]) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch__sequence_length": 256}, {"batch.sequence_length": (128, 256)}),
        ({"data__source": None}, {"data.source": ("data.jsonl", None)}),
        ({"prediction__peak_phase": "load"}, {}),
        ({"model__config": {"hidden_size": 8}}, {}),
    ],
)
def test_a_changed_key(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert plan_differences([plan(), plan(**changes)]) == expected


def test_a_section_that_one_plan_lacks_differs_key_by_key() -> None:
    found = plan_differences([plan(), plan(**full())])
    assert found["adapter.rank"] == (4, None)
    assert "adapter" not in found


def test_all_plans_are_compared_and_not_the_first_two() -> None:
    content = to_builtins(plan())
    assert differing_keys([content, content, {**content, "loss": "standard"}]) == {
        "loss": ("fused", "fused", "standard")
    }
