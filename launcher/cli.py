"""``launch plan.yaml``: run the training that a plan describes."""

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from launcher.command import (
    environment_changes,
    merged_environment,
    num_cores,
    rank_environment,
)
from launcher.dry_run import dry_run_text
from launcher.execution import execute
from launcher.plan_file import read_plan
from launcher.run_directory import check_may_run_in, create, locked
from launcher.sources import check_named
from planner.command_line import run as run_command
from planner.data_section import DataErrors
from planner.errors import InvalidRequestError
from planner.optimizers import optimizers
from planner.plan import Plan
from planner.rules import Combination, broken_rule


def launch(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What plan wrote.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Train on this: a JSON, JSON Lines, CSV or Parquet file, a folder of them, a data "
            "set on the hub, or several with commas between.",
        ),
    ] = None,
    data_errors: Annotated[
        DataErrors | None, typer.Option(help="What a bad record does: stop, or skip and count it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory, instead of the plan's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be run; write nothing.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Trace a step without data and weights: memory.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --rehearse: as JSON.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: training.max_steps=12."),
    ] = None,
) -> None:
    """Train as PLAN says."""
    if as_json and not rehearse:
        raise InvalidRequestError("--json goes with --rehearse: add it, or leave --json out.")
    plan = read_plan(
        plan_file, settings=settings or [], data=data, data_errors=data_errors, output=output
    )
    require_possible(plan)
    if rehearse:
        if settings:
            print("note: what is predicted is the plan without --set", file=sys.stderr)
        rehearse_plan(plan, as_json=as_json)
        return
    directory = Path(plan.output.directory)
    require_one_node(plan)
    if dry_run:
        print(dry_run_text(plan, directory, python=sys.executable, cores=num_cores()), end="")
        return
    check_named(plan.data)
    check_may_run_in(directory)
    run = create(directory, needed_bytes=plan.prediction.disk_bytes)
    with locked(run):
        code = execute(plan, run)
    raise typer.Exit(code)


def rehearse_plan(plan: Plan, *, as_json: bool) -> None:
    """In the ranks' environment, since it decides how the allocator works.

    Imports the training stack, which says a lot that is not about this.
    """
    changes = environment_changes(plan, cores=num_cores())
    os.environ.update(rank_environment(plan, merged_environment(os.environ, changes)))
    logging.disable(logging.WARNING)
    from launcher.rehearse import rehearse

    rehearse(plan, as_json=as_json)


def require_possible(plan: Plan) -> None:
    """Refuses what plan would not have made, and what no package here can run."""
    combination = Combination(
        method=plan.method,
        strategy=plan.parallel.strategy,
        offload=plan.parallel.offload,
        optimizer=plan.optimizer.name,
        device=plan.hardware.device,
        model_type=plan.model.model_type,
        packing=plan.batch.packing,
    )
    rule = broken_rule(combination, pinned=True)
    if rule is not None:
        offload = plan.parallel.offload
        under = plan.parallel.strategy + (f" with offload {offload}" if offload != "none" else "")
        raise InvalidRequestError(
            f"{plan.method} with {plan.optimizer.name} under {under} on "
            f"{plan.hardware.device} is refused: {rule.reason}. Plan again."
        )
    library = optimizers()[plan.optimizer.name].library
    if find_spec(library) is None:
        raise InvalidRequestError(
            f"optimizer {plan.optimizer.name} is {library}'s, which is not installed: "
            f"pip install {library}"
        )


def require_one_node(plan: Plan) -> None:
    if plan.parallel.num_nodes > 1:
        raise InvalidRequestError(
            f"the plan is for {plan.parallel.num_nodes} nodes, and launch starts the ranks of one. "
            "Plan with --nodes 1."
        )


def main() -> None:
    """The console script."""
    run_command(launch)


if __name__ == "__main__":
    main()
