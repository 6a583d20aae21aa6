"""Completion in the shells themselves: what each offers at the end of a line."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest

from planner.base.command_line import Argument, Option
from planner.cli.plan_command import plan
from tuneplan.completion import Shell, completion_script


def bakery(
    command: Annotated[str | None, Argument("What to do.")] = None,
    *,
    apron: Annotated[bool, Option("Wear an apron: it's [always] clean.")] = False,
) -> None:
    """Run a bakery."""


def script_in(shell: Shell, folder: Path) -> Path:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = folder / f"completion.{shell}"
    path.write_text(completion_script(shell, bakery, (plan,)), encoding="utf-8")
    return path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: Shell, tmp_path: Path) -> None:
    subprocess.run([shell, "-n", script_in(shell, tmp_path)], check=True, cwd=tmp_path)


def offered_by_bash(words: Sequence[str], folder: Path) -> list[str]:
    """Return what bash offers for the last word of a line."""
    ask = (
        f"source {script_in('bash', folder)}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        "[[ $(complete -p plan) == *' -F _bakery plan' ]] || exit 1\n"
        '_bakery; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", ask, "bash", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["bakery", "pl"], ["plan"]),
        (["bakery", "--ap"], ["--apron"]),
        (["bakery", "plan", "--opt"], ["--optimizer"]),
        (["/usr/bin/plan", "--memory"], ["--memory-limit"]),
        (["plan", "--vers"], ["--version"]),
        (["plan", "--no-pa"], ["--no-packing"]),
        (["plan", "--gpus", "h100-nv"], ["h100-nvl"]),
        (["plan", "--gpus", "=", "h100-nv"], ["h100-nvl"]),
        (["plan", "--offload", "="], ["none", "optimizer", "all"]),
        (["plan", "--model", "chatglm3-6b-b"], ["chatglm3-6b-base"]),
        (["bakery", "plan", "--recipe", "no-such"], []),
        (
            ["plan", "--recipe", "chatglm3_6b_base_qlora_open_"],
            ["chatglm3_6b_base_qlora_open_platypus_e3"],
        ),
        (["plan", "--method", "q"], ["qlora"]),
        (["plan", "--network", "infiniband-4"], ["infiniband-400g"]),
        (["plan", "--optimizer", "adaf"], ["adafactor"]),
        (["plan", "--list", "net"], ["networks"]),
        (["plan", "--html", ""], []),
        (["plan", "stray"], []),
    ],
)
def test_bash(words: list[str], offered: list[str], tmp_path: Path) -> None:
    assert offered_by_bash(words, tmp_path) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bakery ", ["plan"]),
        ("bakery --ap", ["--apron"]),
        ("plan --memory", ["--memory-limit"]),
        ("bakery plan --gpus h100-nv", ["h100-nvl"]),
        ("plan --offload o", ["optimizer"]),
        ("plan --html page", ["page.html"]),
    ],
)
def test_fish(line: str, offered: list[str], tmp_path: Path) -> None:
    script = script_in("fish", tmp_path)
    (tmp_path / "page.html").touch()
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [word.split("\t")[0] for word in done.stdout.splitlines()] == offered
