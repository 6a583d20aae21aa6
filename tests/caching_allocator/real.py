"""PyTorch's own caching allocator, run without a GPU over a driver that only counts bytes.

It is the compiled one of an installed CUDA build of torch, called through its headers. What it
answered is recorded in tests/golden/allocator.jsonl by

    python -m tests.caching_allocator.real > tests/golden/allocator.jsonl
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from planner.allocator.replay import Allocate, AllocatorEvent, Free, replay
from planner.base.units import MIB

HERE = Path(__file__).parent
UNLIMITED = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the allocator held after each event, and in the end."""

    allocated_bytes: list[int]
    reserved_bytes: list[int]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    num_retries: int
    out_of_memory: bool


def replayed(
    events: Sequence[AllocatorEvent], *, expandable_segments: bool, capacity_bytes: int | None
) -> Answer:
    """Our replay in the same form."""
    peak = replay(events, expandable_segments=expandable_segments, capacity_bytes=capacity_bytes)
    return Answer(
        allocated_bytes=list(peak.allocated_bytes),
        reserved_bytes=list(peak.reserved_bytes),
        peak_allocated_bytes=peak.peak_allocated_bytes,
        peak_reserved_bytes=peak.peak_reserved_bytes,
        num_retries=peak.num_retries,
        out_of_memory=peak.out_of_memory is not None,
    )


def installed(package: str, path: str) -> Path | None:
    """A file or folder of a package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else spec.submodule_search_locations or []
    return next((Path(place) / path for place in places if (Path(place) / path).exists()), None)


def missing() -> str | None:
    """Why the real allocator cannot be had here, or None."""
    if installed("torch", "lib/libc10_cuda.so") is None:
        return "torch is not a CUDA build"
    if installed("nvidia", "cu13/include/cuda_runtime_api.h") is None:
        return "the headers of nvidia-cuda-runtime 13 are not installed"
    return None


def build(folder: Path) -> Path:
    """The program that feeds a trace to it."""
    torch, cuda = installed("torch", ""), installed("nvidia", "cu13/include")
    names = folder / "names"
    names.write_text("libcudart.so.13 { global: *; };\n")
    for library in ("libcudart.so.13", "libnvidia-ml.so.1"):
        options = ["-shared", "-fPIC", "-w", f"-I{cuda}", f"-Wl,-soname,{library}"]
        options += [f"-Wl,--version-script={names}", "-o", str(folder / library)]
        subprocess.run(["gcc", str(HERE / "counting_driver.c"), *options], check=True)
    program = folder / "replay"
    options = ["-std=c++20", "-w", f"-I{torch}/include", f"-I{cuda}", f"-L{torch}/lib"]
    options += ["-lc10_cuda", "-lc10", f"-L{folder}", "-l:libcudart.so.13", "-o", str(program)]
    options += [f"-Wl,-rpath,{folder}:{torch}/lib", "-Wl,--disable-new-dtags"]
    subprocess.run(["g++", str(HERE / "replay.cpp"), *options], check=True)
    return program


def ask(
    program: Path,
    events: Sequence[AllocatorEvent],
    *,
    expandable_segments: bool,
    capacity_bytes: int | None,
) -> Answer:
    lines = [str(UNLIMITED if capacity_bytes is None else capacity_bytes)]
    for event in events:
        if isinstance(event, Free):
            lines.append(f"f {event.key}")
        else:
            lines.append(f"a {event.key} {event.num_bytes}")
    environment = os.environ | {
        "PYTORCH_ALLOC_CONF": f"expandable_segments:{expandable_segments}",
        "LD_LIBRARY_PATH": str(program.parent),
    }
    output = subprocess.run(
        [program],
        input="\n".join(lines),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    *steps, (outcome, *totals) = (line.split() for line in output.splitlines())
    peak_allocated, peak_reserved, retries = map(int, totals)
    return Answer(
        allocated_bytes=[int(allocated) for allocated, _ in steps],
        reserved_bytes=[int(reserved) for _, reserved in steps],
        peak_allocated_bytes=peak_allocated,
        peak_reserved_bytes=peak_reserved,
        num_retries=retries,
        out_of_memory=outcome == "oom",
    )


def size(draw: random.Random) -> int:
    """Any request, and often one at a border of the rules."""
    borders = [0, 1, MIB - 1, MIB, MIB + 1, 10 * MIB - 513, 10 * MIB - 512, 10 * MIB, 20 * MIB]
    return draw.choice(
        [
            draw.choice(borders),
            int(2 ** draw.uniform(0, 20)),
            int(2 ** draw.uniform(19, 27)),
            draw.randrange(1, 60) * MIB,
        ]
    )


def trace(draw: random.Random, length: int) -> list[AllocatorEvent]:
    events: list[AllocatorEvent] = []
    live: list[int] = []
    freeing = draw.uniform(0.2, 0.5)
    for key in range(length):
        if live and draw.random() < freeing:
            events.append(Free(live.pop(draw.randrange(len(live)))))
        else:
            events.append(Allocate(key, size(draw)))
            live.append(key)
    return events


def capacity(
    draw: random.Random, events: Sequence[AllocatorEvent], *, expandable_segments: bool
) -> int:
    """Between what the requests need and what they would reserve: here the cache must go back."""
    peak = replay(events, expandable_segments=expandable_segments)
    return draw.randint(peak.peak_allocated_bytes, max(1, peak.peak_reserved_bytes))


def cases(
    seeds: Sequence[int], length: int
) -> Iterator[tuple[list[AllocatorEvent], bool, int | None]]:
    """Traces with either kind of segments, every other pair under a capacity."""
    for seed in seeds:
        draw = random.Random(seed)
        events = trace(draw, length)
        expandable = seed % 2 == 1
        limited = seed % 4 >= 2
        yield (
            events,
            expandable,
            capacity(draw, events, expandable_segments=expandable) if limited else None,
        )


def main() -> None:
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for events, expandable, limit in cases(range(32), 60):
            answer = ask(program, events, expandable_segments=expandable, capacity_bytes=limit)
            record = {
                "expandable_segments": expandable,
                "capacity_bytes": limit,
                "events": [
                    ["free", event.key]
                    if isinstance(event, Free)
                    else ["allocate", event.key, event.num_bytes]
                    for event in events
                ],
                "answer": asdict(answer),
            }
            print(json.dumps(record, separators=(",", ":")))


if __name__ == "__main__":
    main()
