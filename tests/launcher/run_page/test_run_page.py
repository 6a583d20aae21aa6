"""``launch --html``: the page of runs that finished, that did not, and that are damaged."""

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from launcher.data.inputs import Inputs
from launcher.display.utilisation import RankParts
from launcher.run.attempts import attempt_of, begin_attempt, end_attempt
from launcher.run.run_directory import RunDirectory, locked
from launcher.run_page.run_record import read_run
from launcher.run_page.write_page import write_page
from launcher.storage.json_files import write_json
from launcher.training.environment import describe_environment
from launcher.training.measurements import RankMemory
from launcher.training.report import Training, write_report
from planner.base.errors import InvalidRequestError
from planner.base.phrases import speak
from planner.base.preset_files import translations
from planner.base.units import GIB
from tests.launcher.display.reported import run_through
from tests.launcher.plans import plan, plan_text
from tests.launcher.training.test_setup_check import LORA

RANK = RankMemory(
    rank=0,
    peak_allocated_bytes=None,
    peak_reserved_bytes=None,
    device_used_bytes=None,
    peak_resident_bytes=3 * GIB,
    resident_before_model_bytes=GIB,
    longest_batch_tokens=128,
)
INPUTS = Inputs(
    checkpoint="a",
    base_name="a",
    data_folder="b",
    data_key="c",
    file_digests=[],
    data={"num_samples": 16},
)
TRAINING = Training(
    num_steps=4,
    tokens_per_second=[1200.0] * 4,
    step_times_s=[0.5] * 4,
    mean_row_tokens=64,
    parts=[RankParts(data_s=0.0, forward_s=0.2, backward_s=0.3, update_s=0.0, other_s=0.0)],
    saving_share=0.0,
    run_time_s=2.0,
)


def begun(path: Path, **changes: Any) -> RunDirectory:
    """A run of four logged steps, written as a launch and its rank do."""
    run = RunDirectory(path)
    path.mkdir()
    run.lock.touch()
    run.plan.write_text(plan_text(**changes), encoding="utf-8")
    begin_attempt(run, attempt_of(plan(**changes), from_step=0))
    write_json(run.environment, describe_environment())
    run_through(StringIO(), run.metrics, steps=4)
    return run


def finished(path: Path, **changes: Any) -> RunDirectory:
    run = begun(path, **changes)
    run.result(plan(**changes)).mkdir()
    write_report(run, plan(**changes), inputs=INPUTS, setup=LORA, training=TRAINING, ranks=[RANK])
    return run


def text_of(file: Path) -> str:
    """What the page says outside of its style, data and scripts, a line per text."""
    page = file.read_text(encoding="utf-8")
    body = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\n+", "\n", re.sub(r"<[^>]*>", "\n", body))


def test_a_finished_run(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    text = text_of(write_page([run.path], None))
    assert "\nFinished\n loss 1.5000 to 1.5000 in 4 steps, 2.00 s.\n" in text
    assert "\npeak resident per process\n" in text
    assert "\n3.00 GiB\n" in text
    for title in ("Loss", "Learning rate", "Tokens per second", "GiB in use, the most so far"):
        assert f"\n{title}\n" in text
    assert "\noptimizer.learning_rate\n0.002\n" in text
    assert not read_run(run.path).lacks


def test_the_file_is_in_the_run_unless_another_is_named(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    assert write_page([run.path], None) == run.path / "report.html"
    assert write_page([run.path], tmp_path / "a.html") == tmp_path / "a.html"
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(InvalidRequestError, match=r"--output .*mine\.html.* not a page"):
        write_page([run.path], tmp_path / "mine.html")


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    with locked(run):
        running = text_of(write_page([run.path], None))
    assert "\nRunning\n step 4 of 4 is the last logged, with loss 1.5000.\n" in running
    end_attempt(run, attempt_of(plan(), from_step=0), "out of memory on rank 0")
    ended = text_of(write_page([run.path], None))
    assert "\nNot finished\n" in ended
    assert "The last attempt: out of memory on rank 0" in ended
    assert "\nreport.json is missing: the run has not finished.\n" in ended


DAMAGES: dict[str, tuple[bytes, str]] = {
    "plan.yaml": (b"model: [", "plan.yaml "),
    "report.json": (b'{"measured": ', "report.json is damaged: it is not JSON"),
    "environment.json": (b"[1]", "environment.json is damaged: Expected `object`"),
    "attempts.json": (b'[{"strategy": 3}]', "attempts.json is damaged: "),
    "metrics.jsonl": (b'\xff\n{"step": 1}\n{"step": 2, "loss": NaN}\n[', "2 of 4 lines cannot be"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_or_missing_is_said(tmp_path: Path, name: str) -> None:
    run = finished(tmp_path / "run")
    damage, said = DAMAGES[name]
    (run.path / name).write_bytes(damage)
    assert said in text_of(write_page([run.path], None))
    (run.path / name).unlink()
    assert f"\n{name}" in text_of(write_page([run.path], None))


def test_nothing_but_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(plan_text(), encoding="utf-8")
    assert "no step is logged yet" in text_of(write_page([tmp_path], None))


def test_two_runs_and_how_their_plans_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = finished(tmp_path / "one")
    other = begun(tmp_path / "other", optimizer__learning_rate=0.001)
    file = write_page([one.path, other.path], None)
    assert file == Path("runs.html")
    text = text_of(file)
    assert "\noptimizer.learning_rate\n0.002\n0.001\n" in text
    assert "\nadapter.rank\n" not in text
    data = re.search(r'id="data">(.*?)</script>', file.read_text(encoding="utf-8"))
    assert data is not None
    names = [curve["name"] for curve in json.loads(data[1])["charts"]["loss"]]
    assert names == ["one", "other"]


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no such folder"):
        write_page([tmp_path / "no"], None)
    with pytest.raises(InvalidRequestError, match="is not a run directory"):
        write_page([tmp_path], None)
    with pytest.raises(InvalidRequestError, match="one run or two"):
        write_page([tmp_path] * 3, None)


def test_a_long_run_is_small(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    rows = [
        {"step": step, "loss": 1 + 1 / step, "learning_rate": 1e-4 / step, "grad_norm": 1 / step}
        for step in range(1, 20_001)
    ]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = write_page([run.path, run.path], tmp_path / "page.html")
    assert file.stat().st_size < 200_000
    assert "from step 80 to 20,000" in file.read_text(encoding="utf-8")


def test_no_sentence_stays_english_in_another_language(tmp_path: Path) -> None:
    runs = [
        finished(tmp_path / "a").path,
        begun(tmp_path / "b", optimizer__learning_rate=0.001).path,
    ]
    english = text_of(write_page(runs, tmp_path / "en.html")).splitlines()
    table = translations("zh")
    speak(table)
    try:
        page = write_page(runs, tmp_path / "zh.html")
    finally:
        speak({})
    sentences = {line for line in english if table.get(line, line) != line}
    assert len(sentences) > 30
    assert not sentences & set(text_of(page).splitlines())
    assert '<html lang="zh-CN">' in page.read_text(encoding="utf-8")
