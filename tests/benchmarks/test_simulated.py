"""Predictions against what PyTorch's allocator counted of the same plans on simulated cards."""

from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("torch")

from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.rows import read_rows as read_published
from benchmarks.simulated import edge
from benchmarks.simulated.__main__ import RESULTS, planned, predictions
from benchmarks.simulated.points import Point, points
from benchmarks.simulated.published import __main__ as published
from benchmarks.simulated.published.replay import Replay, replays
from benchmarks.simulated.result_rows import Row, read_rows
from benchmarks.simulated.summary import MARKS, PAGE, error_of, markdown
from planner.base.units import MIB
from planner.plan.schema import Plan

WORST_RESERVED = 0.03
"""Largest relative error of reserved memory."""
MORE_RESERVED = {
    "strategy=tensor": 0.1,
    "sequence-parallel-size": 0.06,
    "strategy=fsdp--tiled-mlp": 0.07,
    "gemma-4-cut": 0.04,
}
"""The same by what a point's name has: plans whose allocator takes more than is expected."""
WORST_ALLOCATED = {True: 0.005, False: 0.01}
"""Largest relative error of a phase, on one card and on several."""
BEYOND = ("h100--model=bloom-560m--method=full--activation-checkpointing=true",)
"""Plans whose allocator takes more than the high end, and more than is expected, where there is
more: a card that has no more runs them, since what is cached goes back."""
NO_FALLBACK_LEFT = tuple(
    f"{card}--model=llama-3.2-1b--method=full" for card in ("t4", "rtx-3090", "rtx-4090")
)
"""Plans that recompute every layer and have micro-batches of one, or a single one, beside which
smaller ones would keep gradients."""
HOLES_BYTES = 15 * MIB
"""What a load may leave in blocks that are larger than what was asked for, in published runs."""
LARGEST_CACHE = ("qwen2.5-0.5b", "activation-checkpointing=true")
"""What the names of the points have whose reserved memory lies furthest above the allocated."""
MOST_INSIDE = ("2xh100--model=gemma-3-270m--method=full--zero-stage=3", "2xrtx-4090--model=olmoe")
"""Beginnings of the names of points in which most is made and gone inside of a phase: gathered
parameters beside split attention, and experts that are unpacked between what a load has left."""


@cache
def counted() -> dict[str, list[Row]]:
    rows = [row for row in read_rows(RESULTS) if not row["reason"]]
    return {name: list(run) for name, run in groupby(rows, key=lambda row: row["point"])}


def marked(name: str) -> object:
    quick = all(word in name for word in LARGEST_CACHE) or name.startswith(MOST_INSIDE)
    return pytest.param(name, marks=() if quick else pytest.mark.long)


def most(name: str, column: str) -> int:
    return max(int(row[column]) for row in counted()[name])


@pytest.mark.parametrize("name", [marked(name) for name in counted()])
def test_a_run_takes_what_is_predicted(name: str) -> None:
    by_name = {point.name: point for point in points()}
    with TemporaryDirectory() as folder:
        plan = planned(by_name[name], Path(folder))
    assert isinstance(plan, Plan), plan
    predicted = predictions(plan)
    shown = most_shown(plan, name, predicted)
    assert shown >= most(name, "device_bytes") or name.startswith(BEYOND)
    worst = WORST_ALLOCATED[by_name[name].count == 1]
    for row in counted()[name]:
        assert abs(error_of({**row, **predicted[row["phase"]]})) < worst, row["phase"]
    within = [worst for word, worst in MORE_RESERVED.items() if word in name]
    reserved = pytest.approx(most(name, "reserved_bytes"), rel=max([WORST_RESERVED, *within]))
    assert predicted["forward"]["plan_reserved_bytes"] == reserved
    assert predicted["forward"]["replayed_bytes"] in (None, reserved)


def most_shown(plan: Plan, name: str, predicted: dict[str, Row]) -> int:
    """What a device shows at most: what the plan needs, or what its allocator is expected to keep
    where that is more."""
    context = most(name, "device_bytes") - most(name, "reserved_bytes")
    shown = int(predicted["forward"]["plan_reserved_bytes"]) + context
    return max(plan.prediction.high_bytes, shown)


def test_a_card_is_named_without_its_number() -> None:
    assert (Point("2xrtx-4090", ()).card, Point("2xrtx-4090", ()).count) == ("rtx-4090", 2)
    assert (Point("rtx-4090", ()).card, Point("rtx-4090", ()).count) == ("rtx-4090", 1)


def test_every_plan_runs_on_a_card_of_its_high_end_and_on_none_below_its_low_end() -> None:
    rows = [row for row in read_rows(edge.RESULTS) if not row["reason"]]
    found = edge.outcomes(rows)
    assert len(found.ran) == len(found.out) == len(rows)
    lost = [row["point"] for row in found.out if row not in found.recovered]
    assert all(name.startswith(NO_FALLBACK_LEFT) for name in lost), lost


def test_the_documented_edges_are_of_these_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert edge.MARKS.with_table(page, edge.markdown(read_rows(edge.RESULTS))) == page, (
        "python -m benchmarks.simulated.edge --write renews it"
    )


def test_the_documented_table_is_of_these_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert MARKS.with_table(page, markdown(read_rows(RESULTS))) == page, (
        "python -m benchmarks.simulated --write renews it"
    )


def test_published_runs_are_counted_as_they_were_measured() -> None:
    rows = read_rows(published.RESULTS)
    assert [row["reason"] for row in rows if row["reason"]] == []
    off = {
        (row["row"], row["reading"]): int(row["counted_bytes"]) - int(row["measured_bytes"])
        for row in rows
        if "reserved" not in row["reading"]
    }
    assert {name: size for name, size in off.items() if abs(size) > HOLES_BYTES} == {}


def test_the_documented_replays_are_of_these_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert published.MARKS.with_table(page, published.markdown(read_rows(published.RESULTS))) == (
        page
    ), "python -m benchmarks.simulated.published --write renews it"


@pytest.mark.parametrize("replay", replays(), ids=lambda replay: f"{replay.source}, {replay.noted}")
def test_a_replay_knows_what_its_rows_printed_and_how_they_were_run(replay: Replay) -> None:
    chosen = [row for row in read_published(PUBLISHED) if replay.has(row)]
    assert chosen
    for row in chosen:
        assert {"allocated", "reserved"} <= set(replay.measured(row)) <= set(replay.readings)
        assert replay.arguments(row, Path("model"))
