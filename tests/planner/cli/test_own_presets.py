"""Cards and recipes of one's own by name, from ``~/.config/tuneplan``."""

from pathlib import Path

import pytest

from planner.base.preset_files import ROOT
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan
from tests.planner.cli.test_plan_command import plan

RECIPE = "qlora"
MODEL = ("--model", "chatglm3-6b-base")


def keep(folder: Path, kind: str, preset: str, name: str) -> Path:
    """Keep a copy of a preset in the user's folder under another name."""
    text = (ROOT / kind / f"{preset}.yaml").read_text(encoding="utf-8")
    file = folder / "tuneplan" / kind / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace(f"name: {preset}", f"name: {name}", 1), encoding="utf-8")
    return file


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a card in it."""
    folder = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    keep(folder, "gpus", "rtx-4090", "my-card")
    return folder


@pytest.mark.usefixtures("config")
def test_a_card_is_known_by_name_as_ours_are(tmp_path: Path) -> None:
    done = plan(*MODEL, "--gpus", "2xMY-CARD", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = read_spec(Plan, tmp_path / "plan.yaml")
    assert (own.hardware.gpu, own.parallel.gpus_per_node) == ("my-card", 2)
    assert "my-card" in plan("--list", "gpus", cwd=tmp_path).stdout
    assert "'my-card'" in plan(*MODEL, "--gpus", "my-cart", cwd=tmp_path).stderr


def test_a_recipe_is_known_by_name_and_comes_before_ours(config: Path, tmp_path: Path) -> None:
    file = keep(config, "recipes", RECIPE, RECIPE)
    text = file.read_text(encoding="utf-8")
    assert "epochs: 3" in text
    file.write_text(text.replace("epochs: 3", "epochs: 5"), encoding="utf-8")
    done = plan(*MODEL, "--recipe", RECIPE, "--gpus", "24G", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_spec(Plan, tmp_path / "plan.yaml").training.epochs == 5


def test_the_folder_without_xdg_is_in_the_home(tmp_path: Path) -> None:
    keep(tmp_path / ".config", "gpus", "rtx-4090", "my-card")
    done = plan(*MODEL, "--gpus", "my-card", cwd=tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME="")
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_called_otherwise_is_one_line(config: Path, tmp_path: Path) -> None:
    file = config / "tuneplan" / "gpus" / "my-card.yaml"
    file.rename(file.with_name("other.yaml"))
    done = plan(*MODEL, "--gpus", "other", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(
        "other.yaml: name: it should be 'other', as the file is called"
    )
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_file_is_named_and_keeps_no_other_card_from_being_planned(
    config: Path, tmp_path: Path
) -> None:
    (config / "tuneplan" / "gpus" / "broken.yaml").write_text("name: broken\n", encoding="utf-8")
    assert plan(*MODEL, "--gpus", "my-card", cwd=tmp_path).returncode == 0
    listed = plan("--list", "gpus", cwd=tmp_path)
    assert (listed.returncode, "my-card" in listed.stdout) == (0, True)
    assert "broken.yaml:1: device_name, nominal_gib, compute_capability, " in listed.stderr
    assert len(listed.stderr.splitlines()) == 1
    assert plan(*MODEL, "--gpus", "NVIDIA 4090", cwd=tmp_path).returncode == 0
    assert plan(*MODEL, "--gpus", "broken", cwd=tmp_path).returncode == 2
