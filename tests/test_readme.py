"""What the README shows is what the program does."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from planner.plan.optimizer_presets import optimizers
from tests.planner.cli.test_plan_command import plan as run_plan

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_worked_example_is_real(tmp_path: Path) -> None:
    block = re.search(r"```console\n\$ plan (.*?)\n(.*?)```", README, re.DOTALL)
    assert block is not None
    result = run_plan(*shlex.split(block[1]), cwd=tmp_path, COLUMNS="88")
    printed = "\n".join(line.rstrip() for line in result.stdout.splitlines())
    assert block[2].strip() == printed.strip()


def test_every_option_is_documented() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "planner", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", help_text)) - {"--help"}
    assert {option for option in options if option not in README} <= {"--output", "--gpus"}


def test_every_optimizer_is_documented() -> None:
    assert not {name for name in optimizers() if f"`{name}`" not in README}


def test_every_option_of_launch_is_documented() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "launcher", "--help"], capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", help_text)) - {"--help"}
    assert not {option for option in options if option not in README}
