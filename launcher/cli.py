"""``launch plan.yaml``: run the training that a plan describes."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launcher.command import (
    environment_changes,
    merged_environment,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.deepspeed_config import deepspeed_config
from launcher.plan_file import plan_text, read_plan
from launcher.process import failed_rank, run_to_end
from launcher.records import data_file
from launcher.run_directory import (
    RunDirectory,
    check_may_run_in,
    create,
    locked,
    read_json,
    write_json,
)
from launcher.summary import closing_lines, failure_lines, summary_table
from planner.errors import InvalidRequestError, UserError
from planner.plan import Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def launch(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What plan wrote.")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Train on this file: JSON or JSON Lines.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory, instead of the plan's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be run; write nothing.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: training.max_steps=12."),
    ] = None,
) -> None:
    """Train as PLAN says."""
    plan = read_plan(plan_file, settings=settings or [], data=data, output=output)
    directory = Path(plan.output.directory)
    require_one_node(plan)
    if dry_run:
        print(rehearsal_text(plan, directory), end="")
        return
    data_file(plan.data.source)
    check_may_run_in(directory)
    run = create(directory, needed_bytes=plan.prediction.disk_bytes)
    with locked(run):
        code = run_plan(plan, run)
    raise typer.Exit(code)


def require_one_node(plan: Plan) -> None:
    if plan.parallel.num_nodes > 1:
        raise InvalidRequestError(
            f"the plan is for {plan.parallel.num_nodes} nodes, and launch starts the ranks of one. "
            "Plan with --nodes 1."
        )


def rehearsal_text(plan: Plan, directory: Path) -> str:
    """What a launch would do, to read and to copy."""
    changes = environment_changes(plan, cores=num_cores())
    command = torchrun_command(plan, directory, python=sys.executable)
    parts = [
        f"run directory: {directory}",
        "environment:",
        *(f"  {name}={value}" for name, value in rank_environment(changes).items()),
        "command:",
        f"  {shlex.join(command)}",
    ]
    config = deepspeed_config(plan)
    if config is not None:
        parts += ["deepspeed.json:", json.dumps(config, indent=2)]
    return "\n".join(parts) + "\n"


def run_plan(plan: Plan, run: RunDirectory) -> int:
    """Prepare, train, show; the training's exit code."""
    run.plan.write_text(plan_text(plan), encoding="utf-8")
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)
    environment = merged_environment(os.environ, environment_changes(plan, cores=num_cores()))

    prepare = preparation_command(run.path, python=sys.executable)
    code = run_to_end(prepare, environment, run.preparation_log)
    if code == UserError.exit_code:
        return code
    if code != 0:
        show_failure(run.preparation_log, f"preparing the run ended with exit code {code}")
        return code

    command = torchrun_command(plan, run.path, python=sys.executable)
    code = run_to_end(command, rank_environment(environment), run.launcher_log)
    if code == 0:
        show_result(plan, run)
    else:
        show_training_failure(run, code)
    return code


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def show_result(plan: Plan, run: RunDirectory) -> None:
    report = read_json(run.report)
    console = Console(highlight=False)
    console.print(summary_table(plan, report))
    for line in closing_lines(plan, run, report):
        console.print(line, markup=False, soft_wrap=True)


def show_training_failure(run: RunDirectory, code: int) -> None:
    if code > 128:
        show_failure(run.launcher_log, f"training was stopped by signal {code - 128}")
        return
    failed = failed_rank(run.launcher_log)
    if failed is None:
        show_failure(run.launcher_log, f"training ended with exit code {code}")
        return
    rank, exit_code = failed
    show_failure(run.rank_log(rank), f"training failed: rank {rank}, exit code {exit_code}")


def show_failure(log_file: Path, what: str) -> None:
    for line in failure_lines(log_file, what):
        print(line, file=sys.stderr)


def main() -> None:
    """The console script: a person's mistake is one line, a bug keeps its traceback."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        fail(error.format_message())
    except UserError as error:
        fail(str(error))
    raise SystemExit(code)


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(UserError.exit_code)


if __name__ == "__main__":
    main()
