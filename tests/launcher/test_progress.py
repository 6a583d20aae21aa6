"""Progress for pipes, and metrics on disk."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

from launcher.progress import PlainDisplay, Reporter, display_on
from tests.launcher.launching import environment

LOGS = {"loss": 1.5, "learning_rate": 2e-4, "tokens_per_second": 1200.0, "entropy": 3.0}


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(display_on(StringIO()), PlainDisplay)


def test_a_line_a_logged_step_and_a_row_of_metrics(tmp_path: Path) -> None:
    stream = StringIO()
    reporter = Reporter(display_on(stream), tmp_path / "metrics.jsonl")
    reporter.on_train_begin(None, SimpleNamespace(max_steps=2), None)
    for step in (1, 2):
        state = SimpleNamespace(global_step=step)
        reporter.on_step_end(None, state, None)
        reporter.on_log(None, state, None, logs=LOGS)
    reporter.on_log(None, SimpleNamespace(global_step=2), None, logs={"train_runtime": 3.0})
    reporter.on_train_end()

    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[:3] for line in lines] == [
        ["step 1/2", "loss 1.5000", "1,200 tokens/s"],
        ["step 2/2", "loss 1.5000", "1,200 tokens/s"],
    ]
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert [json.loads(row) for row in text.splitlines()] == [
        {"step": step, "loss": 1.5, "learning_rate": 2e-4, "tokens_per_second": 1200.0}
        for step in (1, 2)
    ]
    assert reporter.losses == [1.5, 1.5]


def test_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from launcher.screen import libraries_quiet\n"
        "with libraries_quiet(Path('log')) as screen:\n"
        "    print('noise'); os.system('echo more noise >&2'); print('ours', file=screen)\n"
        "print('back')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("ours\nback\n", "")
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert sorted(log.splitlines()) == ["more noise", "noise"]
