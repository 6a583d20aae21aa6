"""The command ``quiz``: questions asked of a model before and after its training."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.data.inputs import read_inputs
from launcher.display.console import console_on
from launcher.display.curve import draw_curve
from launcher.quiz.questions import Question, demo_questions, is_right, read_questions
from launcher.run.finished_run import finished_run
from launcher.run.output import libraries_quiet
from launcher.run.rank_commands import planned_environment
from launcher.run.run_directory import RunDirectory
from planner.base.command_line import Argument, Option, run_command
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase, spoken
from planner.base.printable import print_text
from planner.base.text_files import read_text
from planner.plan.schema import Plan

ANSWER_WIDTH = 32
CURVE_HEIGHT = 8
CURVE_WIDTH = 72
BEFORE_WIDTH = 22


def quiz(
    plan_or_run: Annotated[Path, Argument("Plan that was launched, or its run directory.")],
    *,
    questions_file: Annotated[
        Path | None,
        Option(
            'Questions in JSON Lines: {"question": ..., "answer": ...}; the demo has its own.',
            flags=("--questions",),
        ),
    ] = None,
) -> None:
    """Ask the base model and the trained one the same questions, and draw the loss curve."""
    run, plan = finished_run(plan_or_run)
    questions = read_questions(questions_file or default_questions(plan))
    losses = read_losses(run)
    environment = planned_environment(plan, os.environ)
    os.environ.clear()
    os.environ.update(environment)
    with libraries_quiet(run.logs / "quiz.log") as screen:
        print_text(
            Phrase(
                "asking {number} {number[question|questions]} before and after",
                number=len(questions),
            ),
            file=screen,
        )
        from launcher.quiz.answering import answers_before_and_after

        inputs = read_inputs(run)
        before, after = answers_before_and_after(
            plan,
            base=Path(inputs.checkpoint),
            result=run.result(plan),
            new_stops=list(inputs.data["new_stops"].values()),
            questions=[question.question for question in questions],
        )
        console = console_on(screen)
        console.print(answers_table(questions, before, after))
        console.print(score_line(questions, before, after), soft_wrap=True)
        console.print(curve_text(losses, console))


def default_questions(plan: Plan) -> Path:
    """Return the demo's questions; raise InvalidRequestError for a run on other data."""
    if plan.data.source != "demo":
        raise InvalidRequestError(
            Phrase(
                "this run was not trained on the demo data. Name questions with --questions FILE"
            )
        )
    return demo_questions()


def read_losses(run: RunDirectory) -> list[float]:
    """Return the losses of the run's logged steps, in their order."""
    lines = read_text(run.metrics).splitlines()
    return [json.loads(line)["loss"] for line in lines]


def answers_table(
    questions: Sequence[Question], before: Sequence[str], after: Sequence[str]
) -> Table:
    """Return a table of the questions with both answers, right ones marked."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(Phrase("question"), overflow="fold")
    table.add_column(Phrase("before"), no_wrap=True, overflow="ellipsis", max_width=BEFORE_WIDTH)
    table.add_column(Phrase("after"), overflow="fold")
    for question, old, new in zip(questions, before, after, strict=True):
        table.add_row(
            Text(question.question), _marked(old, question.answer), _graded(new, question.answer)
        )
    return table


def score_line(questions: Sequence[Question], before: Sequence[str], after: Sequence[str]) -> Text:
    """Return the line that counts the right answers before and after."""
    total = len(questions)
    return Text(
        spoken(
            Phrase(
                "right before: {before} of {total}    after: {after} of {total}",
                before=num_right(questions, before),
                total=total,
                after=num_right(questions, after),
            )
        ),
        style="bold",
    )


def num_right(questions: Sequence[Question], given: Sequence[str]) -> int:
    """Return how many of the answers given are right."""
    return sum(
        is_right(answer, question.answer) for question, answer in zip(questions, given, strict=True)
    )


def curve_text(losses: Sequence[float], console: Console) -> Text:
    """Return the loss curve with its heading, at most as wide as the console."""
    lines = draw_curve(
        losses,
        width=min(CURVE_WIDTH, console.width),
        height=CURVE_HEIGHT,
        ascii_only=console.options.ascii_only,
    )
    heading = Phrase("loss over {number} logged {number[step|steps]}", number=len(losses))
    return Text("\n".join(["", spoken(heading), *lines]), style="cyan")


def _marked(answer: str, expected: str) -> Text:
    right = is_right(answer, expected)
    one_line = shorten(answer, ANSWER_WIDTH, placeholder="...") if not right else answer
    return Text(f"{'+' if right else '-'} {one_line}", style="green" if right else "red")


def _graded(answer: str, expected: str) -> Text:
    """Return the answer marked right or wrong, a wrong one followed by the right answer."""
    text = _marked(answer, expected)
    return text if is_right(answer, expected) else text.append(f" ({expected})", style="dim")


def main() -> int:
    """Run ``quiz`` and return its exit code."""
    return run_command(quiz)
