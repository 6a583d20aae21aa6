"""``python -m benchmarks.kills [--kills N] [--seed N] [--minutes N] [--write]``

A tiny model is trained on the CPU by ``launch``, once undisturbed for every shape, and then again
with one signal at a random moment. A launch must end within two minutes of it without a
traceback, leave no process, and by ``launch --begin-or-resume`` come to the losses and weights of
the undisturbed run, bit by bit. The seed and a kill's number repeat it: ``--only 17``.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kills.killed_launch import ACTS, Ended, Started, finished
from benchmarks.kills.shapes import SHAPES, write_folder
from benchmarks.measure.environment import PACKAGES, host_environment

RESULTS = Path(__file__).parents[1] / "results"


class Kill(NamedTuple):
    """One signal to one run, and what became of it."""

    number: int
    shape: str
    act: str
    step: int
    """The step that was waited for; 0 for a moment of the whole run, its start among it."""
    after_s: float
    """Seconds from that step, or from the start, to the signal."""
    code: int
    from_step: int | None
    """The checkpoint that the run was resumed from; None where it began anew, or had finished."""
    wrong: str
    """What must not happen, or an empty text."""


def undisturbed(shape: str, root: Path) -> tuple[Ended, float]:
    """Return what a run comes to by itself, and its seconds."""
    folder = root / shape
    write_folder(folder, shape, root / "checkpoint")
    begin = time.monotonic()
    started = Started(folder)
    if started.ended() != 0:
        raise SystemExit(f"{shape} does not train:\n{started.said}")
    return finished(folder), time.monotonic() - begin


def killed(number: int, seed: int, root: Path, whole: dict[str, tuple[Ended, float]]) -> Kill:
    """Disturb a run, resume it until it ends, and compare it."""
    draw = random.Random(f"{seed} {number}")
    shape, act = draw.choice(list(whole)), draw.choice(list(ACTS))
    expected, seconds = whole[shape]
    # Most of such a short run is imports; what is worth to be disturbed is the training.
    step = draw.randrange(1, len(expected.rows)) if draw.random() < 0.7 else 0
    after_s = draw.uniform(0, 0.5) if step else draw.uniform(0, seconds)
    folder = root / f"kill-{number}"
    write_folder(folder, shape, root / "checkpoint")
    started = Started(folder)
    started.wait_for_step(step)
    time.sleep(after_s)
    ACTS[act](started)
    code = started.ended()
    wrong = [*started.wrong()]
    again = Started(folder, "--begin-or-resume")
    if again.ended() != 0:
        wrong.append(f"resumed with exit code {again.code}: {again.last_line}")
    elif finished(folder) != expected:
        wrong.append("losses or weights differ")
    begins = again.resumed_from
    return Kill(number, shape, act, step, round(after_s, 2), code, begins, "; ".join(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="only the kill of this number")
    parser.add_argument("--minutes", type=float, default=20, help="begin no kill after these")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this shape")
    given = parser.parse_args()
    numbers = range(given.kills) if given.only is None else range(given.only, given.only + 1)
    end = time.monotonic() + 60 * given.minutes
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        whole = {shape: undisturbed(shape, root) for shape in given.shape or SHAPES}
        for shape, (_, seconds) in whole.items():
            print(f"{shape}: {seconds:.0f} s undisturbed", flush=True)
        for number in numbers:
            if time.monotonic() > end:
                break
            kills.append(killed(number, given.seed, root, whole))
            print(*kills[-1], flush=True)
    if given.write:
        write(
            given.seed, kills, {shape: round(seconds, 1) for shape, (_, seconds) in whole.items()}
        )


def write(seed: int, kills: list[Kill], undisturbed_s: dict[str, float]) -> None:
    """Write the kills, and how many of each kind there were, to a file of the seed and the day."""
    measured: dict[str, Any] = {
        "undisturbed_s": undisturbed_s,
        "kills": len(kills),
        "wrong": sum(bool(each.wrong) for each in kills),
        "by_act": dict(Counter(each.act for each in kills)),
        "each": [each._asdict() for each in kills],
    }
    document = {
        "run": {"benchmark": "kills", "seed": seed, "shapes": list(undisturbed_s)},
        "measured": measured,
        "environment": host_environment(PACKAGES) | {"load_average": list(os.getloadavg())},
    }
    file = RESULTS / f"kills-seed-{seed}--{time.strftime('%Y-%m-%d')}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
