"""The tasks of ``launch`` that need no plan, such as the check-up, the chat and merging."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.chatglm.command import WeightLayout, convert
from launcher.compat.requirements import require_training_stack
from launcher.engines.submission import cancel, follow
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Joined, Phrase
from planner.base.printable import print_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The options that say what to do instead of training."""

    doctor: bool
    as_json: bool
    merge: Path | None
    chat: Path | None
    system: str | None
    compare: tuple[Path, ...] | None
    conversion: tuple[Path, Path] | None
    to: WeightLayout | None
    follow: Path | None
    cancel: Path | None
    html: tuple[Path, ...] | None

    @property
    def given(self) -> list[str]:
        """Names of the options given; each is a task of its own."""
        options = {
            "--doctor": self.doctor,
            "--merge": self.merge is not None,
            "--chat": self.chat is not None,
            "--compare": self.compare is not None,
            "--convert": self.conversion is not None,
            "--follow": self.follow is not None,
            "--cancel": self.cancel is not None,
            "--html": self.html is not None,
        }
        return [name for name, is_given in options.items() if is_given]


def check_options(task: Task, *, rehearse: bool, simulate: str | None) -> None:
    """Raise InvalidRequestError for an option without the one that it belongs to."""
    if simulate is not None and not rehearse:
        raise InvalidRequestError(
            Phrase("--simulate needs --rehearse: add it, or leave --simulate out")
        )
    if task.as_json and not (rehearse or task.doctor or task.compare):
        raise InvalidRequestError(
            Phrase("--json needs --rehearse, --doctor or --compare: add one, or leave it out")
        )
    if task.system is not None and task.chat is None:
        raise InvalidRequestError(
            Phrase("--system needs --chat RUN_DIR: add it, or leave --system out")
        )
    if task.to is not None and task.conversion is None:
        raise InvalidRequestError(Phrase("--to needs --convert SRC DST: add it, or leave --to out"))


def without_plan(task: Task, plan_file: Path | None, output: Path | None) -> int:
    """Run the one task that is given and return its exit code.

    Raises InvalidRequestError if there is none, or more than one.
    """
    given = [*(["PLAN"] if plan_file is not None else []), *task.given]
    if not given:
        raise InvalidRequestError(
            Phrase("name a plan: launch plan.yaml (--help shows the options)")
        )
    if len(given) > 1:
        raise InvalidRequestError(
            Phrase("{options} cannot be combined: give one of them", options=Joined(" and ", given))
        )
    return RUN[given[0]](task, output)


def _convert(task: Task, _output: Path | None) -> int:
    assert task.conversion is not None
    require_training_stack("--convert")
    source, target = task.conversion
    convert(source, target, task.to or "native", sys.stderr)
    print_text(str(target))
    return 0


def _merge(task: Task, output: Path | None) -> int:
    require_training_stack("--merge")
    from launcher.merging.merge_run import merge_run

    assert task.merge is not None
    merge_run(task.merge, output)
    return 0


def _chat(task: Task, _output: Path | None) -> int:
    require_training_stack("--chat")
    from launcher.chat.chat_command import chat

    assert task.chat is not None
    chat(task.chat, task.system)
    return 0


def _page(task: Task, output: Path | None) -> int:
    from launcher.run_page.write_page import write_page

    assert task.html is not None
    print_text(str(write_page(task.html, output)))
    return 0


def _compare(task: Task, _output: Path | None) -> int:
    from launcher.display.run_comparison import compare_runs

    assert task.compare is not None
    compare_runs(task.compare, as_json=task.as_json)
    return 0


def _follow(task: Task, _output: Path | None) -> int:
    assert task.follow is not None
    return follow(RunDirectory(task.follow))


def _cancel(task: Task, _output: Path | None) -> int:
    assert task.cancel is not None
    cancel(RunDirectory(task.cancel))
    return 0


def _doctor(task: Task, _output: Path | None) -> int:
    from launcher.doctor.examination import examine

    return examine(as_json=task.as_json)


RUN: dict[str, Callable[[Task, Path | None], int]] = {
    "--doctor": _doctor,
    "--merge": _merge,
    "--chat": _chat,
    "--html": _page,
    "--compare": _compare,
    "--convert": _convert,
    "--follow": _follow,
    "--cancel": _cancel,
}
"""What each task runs, by its option; the second argument is ``--output``."""
