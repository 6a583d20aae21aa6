"""``launch --chat RUN``: what is typed, or comes through a pipe, is answered by a run's model."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from launcher.base_model.find_checkpoint import local_checkpoint
from launcher.data.inputs import read_inputs
from launcher.run.finished_run import finished_run
from launcher.run.output import libraries_quiet
from launcher.run.rank_commands import planned_environment
from launcher.storage.weight_files import is_complete
from planner.base.errors import UserError, reason_of
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.plan.schema import Plan

PROMPT = "> "
HOW_TO_END = Phrase("Ctrl-C ends an answer, Ctrl-D the chat")


def chat(path: Path, system: str | None) -> None:
    """Answer each line of standard input with the model of a finished run, until its end.

    ``system`` is a system message instead of the data's own. Raises ``InvalidRequestError`` if
    there is no finished run, and ``UserError`` if its model cannot be had.
    """
    run, plan = finished_run(path)
    inputs = read_inputs(run)
    log = run.logs / "chat.log"
    os.environ.update(planned_environment(plan, os.environ))
    print_text(
        Phrase("loading {name}, as trained in {path}", name=plan.model.name, path=run.path),
        file=sys.stderr,
    )
    with libraries_quiet(log):
        from launcher.chat.speaker import load_speaker

        result = run.result(plan)
        speaker = load_speaker(
            plan,
            base=base_of(plan, Path(inputs.checkpoint)) if plan.adapter is not None else result,
            result=result,
            new_stops=list(inputs.data.get("new_stops", {}).values()),
            system=system or common_system(plan),
        )
    learnt_text = set(inputs.data.get("formats", {}).values()) == {"text"}
    goes_on = learnt_text and not speaker.has_own_template
    for line in opening_lines(goes_on=goes_on):
        print_text(line, file=sys.stderr)
    for said in said_lines():
        answer(speaker, said, log, goes_on=goes_on)


def base_of(plan: Plan, checkpoint: Path) -> Path:
    """Return the folder of the base model: the run's own, or if it is gone, found anew."""
    if is_complete(checkpoint):
        return checkpoint
    return local_checkpoint(plan.model, sys.stderr).folder


def common_system(plan: Plan) -> str | None:
    """Return the system message that all of the plan's sources add; None if there is none."""
    messages = {source.system for source in plan.data.every_source}
    return messages.pop() if len(messages) == 1 else None


def opening_lines(*, goes_on: bool) -> list[str]:
    """Return the lines that are printed before the first answer."""
    if not goes_on:
        return [HOW_TO_END]
    return [
        Phrase(
            "this run was trained on plain text, and its model has no chat template: it "
            "goes on with what you type, without history"
        ),
        HOW_TO_END,
    ]


def said_lines() -> Iterator[str]:
    """Yield each line of standard input that is not blank; in a terminal it can be edited."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # input() edits lines with it
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            said = input(PROMPT if interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            print_text(f"\n{HOW_TO_END}", file=sys.stderr)
            continue
        if said:
            yield said


def answer(speaker: Any, said: str, log: Path, *, goes_on: bool) -> None:
    """Print the answer to what is said as it comes, and what a person should know of it."""
    note: str | None = None
    with libraries_quiet(log) as screen:
        hear = partial(print_text, end="", file=screen)
        try:
            if goes_on:
                speaker.go_on(said, hear)
            elif not speaker.answer(said, hear):
                note = Phrase("the oldest turns no longer fit, and are forgotten")
        except UserError as error:
            note = reason_of(error)
        print_text("", file=screen)
    if note is not None:
        print_text(note, file=sys.stderr)
