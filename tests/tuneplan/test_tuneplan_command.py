"""The command tuneplan as a user runs it: the other commands, its own options, and mistakes."""

import configparser
import os
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan

ROOT = Path(__file__).parents[2]


def tuneplan(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuneplan", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plan(tmp_path: Path) -> None:
    done = tuneplan("plan", "--model", "qwen2.5-0.5b", "--gpus", "2*4090", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_spec(Plan, tmp_path / "plan.yaml").parallel.gpus_per_node == 2


def test_launch(tmp_path: Path) -> None:
    done = tuneplan("launch", "no.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "no.yaml" in line


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_the_commands(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = tuneplan(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert {"plan", "launch"} <= {line.split()[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("before", [(), ("plan",), ("launch",)])
def test_versions_are_the_same_of_every_command(before: tuple[str, ...], tmp_path: Path) -> None:
    done = tuneplan(*before, "--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == tuneplan("--version", cwd=tmp_path).stdout
    assert done.stdout.startswith("tuneplan ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plam", "--gpus", "24G"), "no such command: plam. Did you mean 'plan'?"),
        (("xyzzy",), "no such command: xyzzy. Known: launch, plan."),
        (("--completion", "tcsh"), "unknown value 'tcsh'"),
        (("--gpus", "24G"), "no such option: --gpus"),
        (("plan", "--gpu", "24G"), "Did you mean '--gpus'?"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = tuneplan(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_both_commands(shell: str, tmp_path: Path) -> None:
    script = tuneplan("--completion", shell, cwd=tmp_path).stdout
    for word in ("rehearse", "memory-limit", "rtx-4090", "qwen2.5-7b", "qlora", "kubeflow"):
        assert word in script


def test_the_installed_commands_are_there() -> None:
    """The entry points of setup.cfg name functions."""
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = metadata["options.entry_points"]["console_scripts"].split("\n")
    scripts = dict(line.split(" = ") for line in lines if line)
    assert set(scripts) == {"tuneplan", "plan", "launch"}
    assert all(callable(resolve_name(place)) for place in scripts.values())
