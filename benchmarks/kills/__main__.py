"""``python -m benchmarks.kills [--kills N] [--seed N] [--minutes N] [--write]``

A tiny model is trained on the CPU by ``launch``, once undisturbed for every shape, and then again
in runs that get several signals, each at a random moment of the launch that the one before has
left to resume. A launch must end within two minutes of a signal without a traceback, and leave no
process; and ``launch --begin-or-resume`` must come to the losses and weights of the undisturbed
run, bit by bit. The seed and a run's number repeat it: ``--only 17``.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kills.killed_launch import ACTS, Ended, Started, finished
from benchmarks.kills.shapes import SHAPES, write_folder
from benchmarks.measure.environment import PACKAGES, host_environment

RESULTS = Path(__file__).parents[1] / "results"
KILLS_OF_A_RUN = 5
"""Most signals to one run: it then has steps left to make undisturbed."""


class Kill(NamedTuple):
    """One signal to one launch, and what became of it."""

    run: int
    shape: str
    act: str
    steps: int
    """Steps of the launch that were waited for; 0 for a moment from its start on."""
    after_s: float
    """Seconds from that step, or from the start, to the signal."""
    code: int
    from_step: int | None
    """The checkpoint that this launch began at; None at the beginning of the run."""
    wrong: str
    """What must not happen, or an empty text."""


class Moments(NamedTuple):
    """The signals that are drawn from, and when."""

    seed: int
    acts: list[str]
    early: bool
    """Whether no signal waits for a step."""

    def draw(self, draw: random.Random, seconds: float) -> tuple[str, int, float]:
        """Return a signal, the steps that it waits for, and the seconds after them.

        ``seconds`` are those of a whole run.
        """
        act = draw.choice(self.acts)
        # Most of such a short run is imports; what is worth to be disturbed is the training.
        if draw.random() < 0.7 and not self.early:
            return act, draw.randrange(1, 8), draw.uniform(0, 0.3)
        return act, 0, draw.uniform(0, seconds)


class Undisturbed(NamedTuple):
    """A run that was left alone."""

    ended: Ended
    seconds: float


def undisturbed(shape: str, root: Path) -> Undisturbed:
    """Return what a run comes to by itself, and its seconds."""
    folder = root / shape
    write_folder(folder, shape, root / "checkpoint")
    begin = time.monotonic()
    started = Started(folder)
    if started.ended() != 0:
        raise SystemExit(f"{shape} does not train:\n{started.said}")
    return Undisturbed(finished(folder), time.monotonic() - begin)


def killed_run(
    number: int, root: Path, whole: dict[str, Undisturbed], moments: Moments
) -> Iterator[Kill]:
    """Disturb a run, resume it and disturb it again, until it ends; and compare it.

    The last that is yielded is the launch that was left alone, with an act of that name.
    """
    draw = random.Random(f"{moments.seed} {number}")
    shape = draw.choice(list(whole))
    folder = root / f"run-{number}"
    write_folder(folder, shape, root / "checkpoint")
    for _ in range(KILLS_OF_A_RUN):
        kill = disturbed(number, shape, folder, moments.draw(draw, whole[shape].seconds))
        if kill is None:
            break
        yield kill
    yield left_alone(number, shape, folder, whole[shape].ended)
    shutil.rmtree(folder)


def disturbed(number: int, shape: str, folder: Path, moment: tuple[str, int, float]) -> Kill | None:
    """Begin or resume a run and disturb it; return None if it ended before."""
    act, steps, after_s = moment
    started = Started(folder, "--begin-or-resume")
    started.wait_for_steps(steps)
    time.sleep(after_s)
    if started.process.poll() is not None:
        return None
    ACTS[act](started)
    code = started.ended()
    wrong = "; ".join(started.wrong())
    return Kill(number, shape, act, steps, round(after_s, 2), code, started.resumed_from, wrong)


def left_alone(number: int, shape: str, folder: Path, expected: Ended) -> Kill:
    """Resume a run until it ends, and compare it."""
    started = Started(folder, "--begin-or-resume")
    code, wrong = started.ended(), ""
    if code != 0:
        wrong = f"resumed with exit code {code}: {started.last_line}"
    elif finished(folder) != expected:
        wrong = "losses or weights differ"
    return Kill(number, shape, LEFT_ALONE, 0, 0.0, code, started.resumed_from, wrong)


LEFT_ALONE = "none"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="only the run of this number")
    parser.add_argument("--minutes", type=float, default=20, help="begin no run after these")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this shape")
    parser.add_argument("--act", choices=ACTS, action="append", help="only this signal")
    parser.add_argument("--early", action="store_true", help="wait for no step")
    given = parser.parse_args()
    moments = Moments(given.seed, given.act or list(ACTS), given.early)
    end = time.monotonic() + 60 * given.minutes
    launches: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        whole = {shape: undisturbed(shape, root) for shape in given.shape or SHAPES}
        for shape, run in whole.items():
            print(f"{shape}: {run.seconds:.0f} s undisturbed", flush=True)
        number = given.only or 0
        while len(kills_of(launches)) < given.kills and time.monotonic() < end:
            for launch in killed_run(number, root, whole, moments):
                launches.append(launch)
                print(*launch, flush=True)
            if given.write:
                seconds = {shape: round(run.seconds, 1) for shape, run in whole.items()}
                write(moments, launches, seconds)
            if given.only is not None:
                break
            number += 1


def kills_of(launches: list[Kill]) -> list[Kill]:
    """Return the launches that got a signal."""
    return [launch for launch in launches if launch.act != LEFT_ALONE]


def write(moments: Moments, launches: list[Kill], undisturbed_s: dict[str, float]) -> None:
    """Write the kills, and how many of each kind there were, to a file of the seed and the day."""
    kills = kills_of(launches)
    measured: dict[str, Any] = {
        "undisturbed_s": undisturbed_s,
        "runs": len(launches) - len(kills),
        "kills": len(kills),
        "wrong": sum(bool(each.wrong) for each in launches),
        "by_act": dict(Counter(each.act for each in kills)),
        "by_shape": dict(Counter(each.shape for each in kills)),
        "each": [each._asdict() for each in launches],
    }
    document = {
        "run": {"benchmark": "kills", **moments._asdict(), "shapes": list(undisturbed_s)},
        "measured": measured,
        "environment": host_environment(PACKAGES) | {"load_average": list(os.getloadavg())},
    }
    file = RESULTS / f"kills-seed-{moments.seed}--{time.strftime('%Y-%m-%d')}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
