"""Our replay against PyTorch's own allocator, event by event."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.allocator.replay import Allocate, AllocatorEvent, Free
from tests.caching_allocator.real import Answer, ask, build, cases, missing, replayed

RECORDED = Path(__file__).parent.parent / "golden" / "allocator.jsonl"
LINES = RECORDED.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", LINES, ids=[f"trace-{n}" for n in range(len(LINES))])
def test_the_recorded_answers_of_torch_2_13_0(line: str) -> None:
    """libc10_cuda.so of torch 2.13.0+cu130 (cf30153c4c13), Linux x86_64."""
    record: dict[str, Any] = json.loads(line)
    events: list[AllocatorEvent] = [
        Free(key) if kind == "free" else Allocate(key, *num_bytes)
        for kind, key, *num_bytes in record["events"]
    ]
    assert replayed(
        events,
        expandable_segments=record["expandable_segments"],
        capacity_bytes=record["capacity_bytes"],
    ) == Answer(**record["answer"])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_allocator_that_is_installed(tmp_path: Path) -> None:
    program = build(tmp_path)
    for events, expandable, limit in cases(range(1_000, 1_400), 400):
        assert replayed(events, expandable_segments=expandable, capacity_bytes=limit) == ask(
            program, events, expandable_segments=expandable, capacity_bytes=limit
        )
