"""Points of the traced grid, those that are kept and one of today."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.marks import ACCURACY_PAGE
from benchmarks.traced_grid import GRIDS, RESULTS, Point, measure

LIMIT = 0.02
"""Of the closed form from a trace, everywhere."""
PAGE = ACCURACY_PAGE.read_text(encoding="utf-8")


def newest(pattern: str) -> Path:
    return sorted(RESULTS.glob(pattern))[-1]


@pytest.mark.parametrize(
    ("grid", "pattern"), [("device", "traced-grid--*.json"), ("ranks", "traced-grid-ranks--*.json")]
)
def test_every_kept_point_is_within_the_limit(grid: str, pattern: str) -> None:
    path = newest(pattern)
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["measured"]
    assert measured["points"] == len(measured["rows"]) == GRIDS[grid]
    off = [row for row in measured["rows"] if abs(row["error"]) > LIMIT]
    assert not off
    assert path.name in PAGE


def test_what_the_documentation_says_of_the_grid() -> None:
    measured: dict[str, Any] = json.loads(
        newest("traced-grid--*.json").read_text(encoding="utf-8")
    )["measured"]
    said = re.search(
        r"within (\S+) % of a traced step of the launcher's own kind at each of (\d+)\s+points\s+"
        r"over (\d+) models,.*?\(95 % of them\s+within (\S+) %;",
        PAGE,
        re.DOTALL,
    )
    assert said is not None
    worst, points, models, most = said.groups()
    assert abs(measured["worst"]) <= float(worst) / 100
    assert measured["percentile_95"] <= float(most) / 100
    assert measured["points"] == int(points)
    assert len({row["model"] for row in measured["rows"]}) == int(models)


def test_a_mixture_whose_plan_peaks_in_its_load() -> None:
    point = Point(
        model="olmoe-1b-7b",
        method="qlora",
        checkpointing=True,
        micro_batch_size=1,
        sequence_length=512,
        loss="fused",
    )
    [row] = measure([point])
    assert abs(row["error"]) < 0.001
