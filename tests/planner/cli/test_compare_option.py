"""``plan --compare``: plans side by side, one that was edited with its prediction made anew."""

import json
from pathlib import Path

import pytest

from planner.base.errors import InvalidFileError
from planner.cli.plan_command import plan
from planner.plan.plan_file import is_untouched


@pytest.fixture
def plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, Path]:
    monkeypatch.setattr("sys.argv", ["plan"])
    files = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for file, gpus in zip(files, ("24G", "rtx-4090"), strict=True):
        plan(model="qwen2.5-0.5b", gpus=gpus, output=file, as_json=True)
    capsys.readouterr()
    return files


def test_a_table(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    plan(compared=plans)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == list(map(str, plans))
    [card] = [line.split() for line in lines if line.startswith("  hardware.gpu ")]
    assert card == ["hardware.gpu", "24G", "rtx-4090"]
    [memory] = [line for line in lines if "GPU memory, worst case" in line]
    assert memory.count("GiB") == 2
    assert not any("model.name" in line for line in lines)


def test_json(plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    plan(compared=plans, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["plans"] == list(map(str, plans))
    assert document["differences"]["hardware.gpu"] == ["24G", "rtx-4090"]
    assert document["predicted"][0]["high_bytes"] > 0


def test_an_edited_plan_is_predicted_anew(
    plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = plans
    text = first.read_text(encoding="utf-8")
    second.write_text(text.replace("method: ", "method:  "), encoding="utf-8")
    edited = text.replace("sequence_length: 2048", "sequence_length: 1024")
    assert edited != text
    assert not is_untouched(edited)
    first.write_text(edited, encoding="utf-8")
    plan(compared=plans, as_json=True)
    document = json.loads(capsys.readouterr().out)
    shorter, whole = (each["peak_allocated_bytes"] for each in document["predicted"])
    assert shorter < whole
    assert document["differences"] == {"batch.sequence_length": [1024, 2048]}


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(InvalidFileError, match=r"other.yaml:1: unknown key"):
        plan(compared=(file,))
