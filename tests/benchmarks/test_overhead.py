"""The overhead's figures: what pairs of runs say, and that both sides have the plan's settings."""

from pathlib import Path

import pytest

from benchmarks.overhead.__main__ import (
    LENGTH,
    MICRO_BATCH,
    Side,
    line,
    settings_by_hand,
    summary,
)
from tests.launcher.plans import full, plan


def side(*step_times_s: float) -> Side:
    return Side(step_times_s=step_times_s, losses=[2.0, 1.0])


def test_the_median_step_and_the_median_pair_decide() -> None:
    pairs = [
        {"launch": side(1.0, 1.0, 9.0), "by hand": side(0.98, 0.98, 0.98)},
        {"by hand": side(4.0, 4.0, 4.0), "launch": side(4.0, 4.0, 4.0)},
        {"launch": side(2.0), "by hand": side(1.0)},
    ]
    found = summary(pairs)
    assert found["ratios"] == [0.98, 1.0, 0.5]
    assert found["median_ratio"] == 0.98
    assert found["tokens_per_second"]["launch"][0] == MICRO_BATCH * LENGTH
    assert line("lora", found).endswith("median ratio of 3 pairs 0.980")


@pytest.mark.parametrize(("changes", "dtype"), [({}, "bfloat16"), (full(), "float32")])
def test_the_script_by_hand_has_the_plans_settings(changes: dict[str, object], dtype: str) -> None:
    settings = settings_by_hand(plan(**changes), Path("folder"))
    assert settings["dtype"] == dtype
    assert settings["learning_rate"] == 0.002
    assert settings["steps"] == 4
    assert (settings["lora"] is None) == bool(changes)
