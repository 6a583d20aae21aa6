"""Two gloo ranks of which one is slow or late, reads slowly, or has a slow link: each is named."""

from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("deepspeed")

from tests.launcher.forked import Launcher
from tests.launcher.launching import Finished, write_plan
from tests.launcher.plans import TWO_RANKS, parallel

STEPS = 3


def run(launcher: Launcher, checkpoint: Path, folder: Path, fault: str) -> Finished:
    """Train a few steps over two ranks with a fault, logged at the end."""
    write_plan(
        folder,
        model__source=str(checkpoint),
        parallel=parallel("ddp"),
        training__max_steps=STEPS,
        training__epochs=None,
        training__logging_steps=STEPS,
        prediction__backward_over_forward=1.0,
        **TWO_RANKS,
    )
    launcher.fault = fault
    done = launcher.run(folder)
    assert done.code == 0, done.errors
    return done


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "cause", "words"),
    [
        ("slowdevice@load:0/1", "slow rank", "rank 1 is slower"),
        ("slowreader@load:0/1", "data", "waiting for data on rank 1 takes"),
        ("slowlink@load:0", "slow link", "communication takes"),
        ("slowbegin@load:0/1", "late rank", "rank 1 is late between two steps"),
        ("slowend@load:0/1", "late rank", "rank 1 is late between two steps"),
    ],
)
def test_what_keeps_ranks_idle_is_named(
    launcher: Launcher, tiny_checkpoint: Path, folder: Path, fault: str, cause: str, words: str
) -> None:
    report = run(launcher, tiny_checkpoint, folder, fault).read("report.json")
    found = report["utilisation"]
    assert found["losses"][0]["cause"] == cause, found
    largest = found["losses"][0]
    assert largest["text"].startswith(words)
    screen = (folder / "run" / "logs" / "screen.log").read_text(encoding="utf-8")
    assert f"note: {words}" in screen
