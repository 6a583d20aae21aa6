"""The commands that documents show, and how each kind of them is checked without a GPU.

``plan`` is run. ``launch`` is run with ``--dry-run``; the command line of a task of its own, or of
one of several nodes, is read by the grammar. All commands of a document run in one folder and in
this process, in their order, so that ``launch plan.yaml`` finds the plan above it.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

from launcher.cli.launch_command import launch
from launcher.cli.other_tasks import Task, check_options
from launcher.quiz.quiz_command import quiz
from planner.base.command_line import asked_language, parse_arguments
from planner.base.phrases import speak
from planner.base.preset_files import translations
from planner.cli.plan_command import plan
from tests.test_layering import ROOT

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_REQUIREMENT = re.compile(r"(?:tuneplan|\.)(?:\[(\w+)\])?")
OTHERS = {"export", "hf"}
"""Commands of others, which are not run."""


class Shown(NamedTuple):
    """A command as a document shows it."""

    words: tuple[str, ...]
    output: str
    """Lines below it, empty if it shows none."""

    def __str__(self) -> str:
        return shlex.join(self.words)


def shown_commands(text: str) -> Iterator[Shown]:
    """Yield the commands of a document in order, without their comments."""
    for block in _BLOCK.findall(text):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = entry.partition("\n")
            yield Shown(tuple(shlex.split(line, comments=True)), output.strip())


def check(shown: Shown) -> None:
    """Raise an error unless the command does what a reader expects of it."""
    name, *arguments = shown.words
    CHECKS[name](arguments)


def check_plan(arguments: Sequence[str]) -> None:
    """Run ``plan``; with data, whose tokenizers are on the hub, read its command line."""
    values = parse_arguments(plan, arguments)
    if values["data"] is not None:
        return
    sys.argv[1:] = arguments
    speak(translations(asked_language(arguments) or "en"))
    plan(**values)


def check_launch(arguments: Sequence[str]) -> None:
    """Run ``launch --dry-run``, or read the command line of a task that has none."""
    values = parse_arguments(launch, arguments)
    task = Task(
        doctor=values["doctor"],
        as_json=values["as_json"],
        merge=values["merge"],
        chat=values["chat"],
        system=values["system"],
        compare=values["compared"],
        conversion=values["conversion"],
        to=values["to"],
        follow=values["followed"],
        cancel=values["cancelled"],
        html=values["html"],
    )
    check_options(task, rehearse=values["rehearse"], simulate=values["simulate"])
    given = [*task.given, *([values["plan_file"]] if values["plan_file"] is not None else [])]
    assert len(given) == 1, given
    if not task.given and not values["rehearse"] and values["rdzv_endpoint"] is None:
        assert launch(**{**values, "dry_run": True, "detach": False}) == 0


def check_python(arguments: Sequence[str]) -> None:
    """Require the module that ``python -m`` runs."""
    option, module, *rest = arguments
    assert option == "-m"
    assert find_spec(module) is not None, module
    if module == "launcher.quiz":
        parse_arguments(quiz, rest)


def check_make(arguments: Sequence[str]) -> None:
    """Require the target in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [target] = arguments
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def check_install(arguments: Sequence[str]) -> None:
    """Require the extra that an installer is asked for."""
    requirement = _REQUIREMENT.fullmatch(arguments[-1])
    if requirement is None:
        assert {"torch", "modelscope"} & {*arguments}
        return
    extras = re.search(
        r"\[options\.extras_require\]\n(.*?)\n\n",
        (ROOT / "setup.cfg").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert extras is not None
    assert requirement[1] is None or f"{requirement[1]} =\n" in extras[1]


def run_as_typed(program: str, arguments: Sequence[str]) -> None:
    """Run a command of the shell on files of the reader's folder."""
    subprocess.run([program, *map(os.path.expanduser, arguments)], check=True)


def check_srun(arguments: Sequence[str]) -> None:
    """Read the command line of ours that srun starts."""
    first = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
    assert arguments[first] == "plan"
    parse_arguments(plan, arguments[first + 1 :])


CHECKS: dict[str, Callable[[Sequence[str]], Any]] = {
    "plan": check_plan,
    "launch": check_launch,
    "python": check_python,
    "make": check_make,
    "pip": check_install,
    "uv": check_install,
    "pipx": check_install,
    "srun": check_srun,
    "mkdir": partial(run_as_typed, "mkdir"),
    "cp": partial(run_as_typed, "cp"),
}
