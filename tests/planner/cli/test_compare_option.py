"""``plan --compare``: plans side by side, one that was edited with its prediction made anew."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from planner.base.errors import InvalidFileError
from planner.cli.plan_command import plan
from planner.page.side_by_side import SideBySide
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
    with pytest.raises(InvalidFileError, match=r"other.yaml: this file is not a plan"):
        plan(compared=(file,))


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("name", ["a.yaml", "runs/of-a-very-long-name/plan.yaml"])
def test_no_value_is_cut(columns: int, name: str) -> None:
    whole, targets = ["22,200,123,456", "NVIDIA GeForce RTX 4090"], ["q_proj", "k_proj", "o_proj"]
    values = enumerate([*whole, targets])
    rows = [(f"section.some_long_key_{number}", [each] * 2) for number, each in values]
    screen = StringIO()
    console = Console(file=screen, width=columns)
    console.print(SideBySide([name, "b.yaml"], [("differs", rows)]))
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= columns
    assert [text.count(each) for each in (name, *whole, "o_proj")] == [1, 2, 2, 2]
