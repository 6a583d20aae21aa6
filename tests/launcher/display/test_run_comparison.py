"""``launch --compare``: finished runs side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.display.run_comparison import compare_runs
from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec
from planner.base.units import format_gib
from planner.plan.schema import Plan
from tests.launcher.display.test_closing_summary import REPORT
from tests.launcher.plans import plan_text


def write_run(folder: Path, *, last_loss: float = 0.25, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "plan.yaml").write_text(plan_text(**changes), encoding="utf-8")
    report = {**REPORT, "training": {**REPORT["training"], "last_loss": last_loss}}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "short"),
        write_run(tmp_path / "long", last_loss=0.125, training__max_steps=8),
    ]


def test_a_table(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    compare_runs(runs, as_json=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{runs[0]} {runs[1]}"
    assert "loss, last 0.2500 0.1250" in lines
    assert "peak memory 0.68 GiB 0.68 GiB" in lines
    predicted = read_spec(Plan, runs[0] / "plan.yaml").prediction
    expected = f"{format_gib(predicted.low_bytes)} to {format_gib(predicted.high_bytes)} GiB"
    assert f"peak memory, predicted {expected} {expected}" in lines
    assert lines[-2:] == ["differs", "training.max_steps 4 8"]


def test_the_last_evaluation_is_told(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": step, "eval_loss": loss} for step, loss in ((2, 1.5), (4, 0.75))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (runs[1] / "evaluation.jsonl").write_text(text, encoding="utf-8")
    compare_runs(runs, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [run["evaluation_loss"] for run in document["runs"]] == [None, 0.75]
    assert document["differences"] == {"training.max_steps": [4, 8]}
    assert document["runs"][1]["last_loss"] == 0.125


def test_a_run_that_has_not_ended(runs: list[Path]) -> None:
    (runs[1] / "report.json").unlink()
    with pytest.raises(InvalidRequestError, match=f"{runs[1]} holds no finished run"):
        compare_runs(runs, as_json=False)
