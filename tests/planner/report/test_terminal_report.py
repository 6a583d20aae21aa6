"""The report: complete, in order, within its width, and plain when there is no terminal."""

import io
import re
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from planner.base.units import GIB
from planner.decision.choose import decide
from planner.hardware.cluster import Cluster
from planner.recipes.load_recipe import load_recipe
from planner.report.terminal_report import print_report
from planner.report.verdict import memory_line, notes
from planner.report.words import headline
from tests.planner.builders import cards, request


def printed(
    width: int,
    *,
    count: int = 2,
    gib: int = 24,
    terminal: bool = False,
    rows: int = 50,
    whole: bool = False,
) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        height=rows,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        highlight=False,
    )
    decision = decide(request(cards(count, gib, speed="rtx-3090")))
    print_report(console, decision, ["launch plan.yaml --data FILE"], whole=whole)
    return stream.getvalue()


WIDTHS = [60, 80, 100]
MACHINES = [(1, 24), (2, 24), (8, 80), (4, 300)]
NUMBER = re.compile(r"\d[\d,.]*(?<![,.])")
WITH_UNIT = re.compile(rf"({NUMBER.pattern}) (GiB|MiB|s|min|h|%|tokens|tokens/s|kWh|B|M)(?!\w)")


@pytest.mark.parametrize("width", [*WIDTHS, 140])
@pytest.mark.parametrize(("count", "gib"), MACHINES)
def test_nothing_is_wider_than_the_terminal(width: int, count: int, gib: int) -> None:
    assert max(map(len, printed(width, count=count, gib=gib).splitlines())) <= width


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"recipe": load_recipe("vera")}, "LoRA, VeRA adapters, one device"),
        ({"recipe": load_recipe("dora"), "method": "qlora"}, "QLoRA, DoRA adapters, one device"),
        ({"method": "lora", "lora_init": "pissa_niter_4"}, "LoRA, PiSSA adapters, one device"),
        ({"method": "lora"}, "LoRA, one device"),
    ],
)
def test_adapters_of_another_kind_are_named(asked: dict[str, Any], words: str) -> None:
    chosen = decide(request(cards(1, 80), model="qwen2.5-1.5b", **asked)).chosen
    assert headline(chosen).startswith(words)


@pytest.mark.parametrize("model", ["chatglm3-6b-base", "mixtral-8x7b"])
def test_the_worst_case_and_what_is_free_in_it_are_the_whole(model: str) -> None:
    """Also where the allocator's cache makes the driver show more than the worst case."""
    decision = decide(request(cards(8, 80), model=model, method="lora", zero_stage=3))
    expected, high = decision.chosen.expected, decision.chosen.memory.high_bytes
    assert (expected.device_used_bytes > high) == (model == "mixtral-8x7b")
    found = re.search(r"([\d.]+)( GiB at worst| in the worst case)", memory_line(decision))
    assert found is not None
    assert float(found[1]) == pytest.approx(80 - decision.spare_bytes / GIB, abs=0.05)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("count", "gib"), MACHINES)
def test_no_number_is_cut_or_parted_from_its_unit(width: int, count: int, gib: int) -> None:
    """Each stands in every width as often as in a wide terminal, with its unit on its line."""
    wide, narrow = (printed(columns, count=count, gib=gib) for columns in (140, width))
    assert Counter(NUMBER.findall(narrow)) == Counter(NUMBER.findall(wide))
    units, in_narrow = Counter(WITH_UNIT.findall(wide)), Counter(WITH_UNIT.findall(narrow))
    assert units <= in_narrow


@pytest.mark.parametrize(
    ("cluster", "pinned", "note"),
    [
        (
            cards(1, 24),
            {"memory_limit_bytes": 100 * GIB},
            "--memory-limit 100.0 GiB is more than the 24.0 GiB that are free: it changes nothing",
        ),
        (cards(1, 24), {"memory_limit_bytes": 23 * GIB}, None),
        (
            cards(16, 80),
            {},
            "one host with 16 cards is planned, and most hold at most 8: for 2 hosts, --gpus 8x80G "
            "--nodes 2",
        ),
        (cards(8, 80), {}, None),
    ],
)
def test_what_was_not_meant_is_noted(
    cluster: Cluster, pinned: dict[str, Any], note: str | None
) -> None:
    assert notes(decide(request(cluster, model="smollm2-135m", **pinned))) == [
        *([] if note is None else [note])
    ]


def test_the_order_is_the_readers() -> None:
    text = printed(100)
    marks = ["fits, ", "Method", "Batch", "Memory", "Speed", "Time", "Why", "Next"]
    marks += ["Memory per GPU", "Other ways", "Limits", "Richer method", "Machine", "Model"]
    marks += ["Capacity", "Range", "Host", "Disk", "Step", "Limited by", "Per 1M tokens"]
    places = [re.search(f"^{mark}|: {mark}", text, re.MULTILINE) for mark in marks]
    found = [place.start() for place in places if place is not None]
    assert len(found) == len(marks)
    assert found == sorted(found)


ALWAYS = ("fits", "Method", "Next", "Memory per GPU", "allocated")


@pytest.mark.parametrize("rows", [20, 24, 30, 50, 75, 200])
def test_the_answer_stays_on_the_terminal(rows: int) -> None:
    """What has no room is named; the answer and the memory table are always there."""
    text = printed(100, terminal=True, rows=rows)
    assert all(mark in text for mark in ALWAYS)
    hidden = "--verbose shows" in text
    assert hidden == (rows < 60)
    if rows >= 24:
        assert text.count("\n") < rows
    assert "--verbose" not in printed(100, terminal=True, rows=rows, whole=True)


def test_a_pipe_has_no_padding_and_is_not_cut() -> None:
    text = printed(400)
    assert "Per 1M tokens" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_peak_is_marked_once() -> None:
    header = next(line for line in printed(100).splitlines() if line.startswith("part"))
    assert header.count("peak") == 1


def test_colour_is_for_terminals() -> None:
    assert "\x1b[" in printed(100, terminal=True)
    assert "\x1b[" not in printed(100)
