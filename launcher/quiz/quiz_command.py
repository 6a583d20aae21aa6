"""Ask before and after: what the training taught, and its loss curve.

python -m launcher.quiz.quiz_command PLAN_OR_RUN [--questions FILE]
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.data.inputs import read_inputs
from launcher.display.curve import draw_curve
from launcher.quiz.questions import Question, demo_questions, is_right, read_questions
from launcher.run.output import libraries_quiet
from launcher.run.rank_commands import planned_environment
from launcher.run.run_directory import RunDirectory
from planner.base.command_line import run as run_command
from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec, read_text
from planner.plan.schema import Plan

ANSWER_WIDTH = 32
CURVE_HEIGHT = 8
CURVE_WIDTH = 72
BEFORE_WIDTH = 22


def quiz(
    plan_or_run: Annotated[
        Path, typer.Argument(metavar="PLAN_OR_RUN", help="A plan that was launched, or its folder.")
    ],
    questions_file: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="JSON Lines of question and answer."),
    ] = None,
) -> None:
    """Ask the base model and the trained one, and draw the loss curve."""
    run = finished_run(plan_or_run)
    plan = read_spec(Plan, run.plan)
    questions = read_questions(questions_file or default_questions(plan))
    losses = read_losses(run)
    os.environ.update(planned_environment(plan, os.environ))
    with libraries_quiet(run.logs / "quiz.log") as screen:
        print(f"asking {len(questions)} questions before and after", file=screen)
        from launcher.quiz.answering import answers_before_and_after

        before, after = answers_before_and_after(
            plan,
            base=Path(read_inputs(run).checkpoint),
            result=run.result(plan),
            questions=[question.question for question in questions],
        )
        console = Console(file=screen, highlight=False)
        console.print(answers_table(questions, before, after))
        console.print(score_line(questions, before, after), soft_wrap=True)
        console.print(curve_text(losses, console))


def finished_run(path: Path) -> RunDirectory:
    if path.is_file():
        path = Path(read_spec(Plan, path).output.directory)
    run = RunDirectory(path)
    if not run.report.is_file():
        raise InvalidRequestError(f"{path} holds no finished run. Launch its plan first.")
    return run


def default_questions(plan: Plan) -> Path:
    if plan.data.source != "demo":
        raise InvalidRequestError(
            "this run was not trained on the demo data. Name questions with --questions FILE."
        )
    return demo_questions()


def read_losses(run: RunDirectory) -> list[float]:
    lines = read_text(run.metrics).splitlines()
    return [json.loads(line)["loss"] for line in lines]


def answers_table(
    questions: Sequence[Question], before: Sequence[str], after: Sequence[str]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("question", overflow="fold")
    table.add_column("before", no_wrap=True, overflow="ellipsis", max_width=BEFORE_WIDTH)
    table.add_column("after", overflow="fold")
    for question, old, new in zip(questions, before, after, strict=True):
        table.add_row(
            Text(question.question), _marked(old, question.answer), _graded(new, question.answer)
        )
    return table


def score_line(questions: Sequence[Question], before: Sequence[str], after: Sequence[str]) -> Text:
    total = len(questions)
    return Text(
        f"right before: {num_right(questions, before)} of {total}    "
        f"after: {num_right(questions, after)} of {total}",
        style="bold",
    )


def num_right(questions: Sequence[Question], given: Sequence[str]) -> int:
    return sum(
        is_right(answer, question.answer) for question, answer in zip(questions, given, strict=True)
    )


def curve_text(losses: Sequence[float], console: Console) -> Text:
    lines = draw_curve(
        losses,
        width=min(CURVE_WIDTH, console.width),
        height=CURVE_HEIGHT,
        ascii_only=console.options.ascii_only,
    )
    heading = f"loss over {len(losses)} logged steps"
    return Text("\n".join(["", heading, *lines]), style="cyan")


def _marked(answer: str, expected: str) -> Text:
    right = is_right(answer, expected)
    one_line = shorten(answer, ANSWER_WIDTH, placeholder="...") if not right else answer
    return Text(f"{'+' if right else '-'} {one_line}", style="green" if right else "red")


def _graded(answer: str, expected: str) -> Text:
    """As marked, with what would have been right."""
    text = _marked(answer, expected)
    return text if is_right(answer, expected) else text.append(f" ({expected})", style="dim")


def main() -> None:
    run_command(quiz)


if __name__ == "__main__":
    main()
