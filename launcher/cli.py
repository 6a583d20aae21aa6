"""``launch plan.yaml``: run the training that a plan describes."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, get_args

import typer

from launcher.chatglm.command import Layout
from launcher.command import (
    environment_changes,
    merged_environment,
    num_cores,
    rank_environment,
)
from launcher.dry_run import dry_run_text
from launcher.execution import execute
from launcher.plan_file import read_plan
from launcher.preflight import needed_disk_bytes, refitted, require_packages, suited
from launcher.record import write_record
from launcher.resume import check_nothing_to_resume, interrupted_plan, saved_state
from launcher.run_directory import RunDirectory, check_may_run_in, create, locked
from launcher.sources import check_named
from launcher.without_plan import Task, check_options, without_plan
from planner.command_line import run as run_command
from planner.data_section import DataErrors
from planner.errors import InvalidRequestError
from planner.optimizers import optimizers
from planner.plan import Plan
from planner.rules import Combination, Pinned, broken_rule


def launch(
    plan_file: Annotated[
        Path | None, typer.Argument(metavar="PLAN", help="What plan wrote.", show_default=False)
    ] = None,
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the run directory.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be run; write nothing.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Trace a step without data and weights: memory.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --rehearse and --doctor: as JSON.")
    ] = False,
    doctor: Annotated[
        bool, typer.Option("--doctor", help="No PLAN: check this machine and what is installed.")
    ] = False,
    merge: Annotated[
        Path | None,
        typer.Option(metavar="RUN_DIR", help="No PLAN: a run's adapter into 16-bit weights."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Leave a measured run for benchmarks/accuracy.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: training.max_steps=12."),
    ] = None,
    conversion: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--convert", metavar="SRC DST", help="Only convert a ChatGLM checkpoint."),
    ] = None,
    to: Annotated[
        Layout | None, typer.Option("--to", help="With --convert: the layout, native if left out.")
    ] = None,
) -> None:
    """Train as PLAN says."""
    task = Task(doctor=doctor, as_json=as_json, merge=merge, conversion=conversion, to=to)
    check_options(task, rehearse=rehearse)
    if plan_file is None or task.given:
        raise typer.Exit(without_plan(task, plan_file, output))
    plan = read_plan(
        plan_file, settings=settings or [], data=data, data_errors=data_errors, output=output
    )
    require_possible(plan)
    if settings:
        plan, notes = refitted(plan, settings)
        tell(notes)
    if rehearse:
        rehearse_plan(plan, as_json=as_json)
        return
    directory = Path(plan.output.directory)
    require_one_node(plan)
    if dry_run:
        print(dry_run_text(plan, directory, python=sys.executable, cores=num_cores()), end="")
        return
    raise typer.Exit(train(plan, directory, resume=resume, record=record))


def train(plan: Plan, directory: Path, *, resume: bool, record: bool) -> int:
    """The exit code; what can be known to fail is found before anything is written."""
    if not resume:
        check_named(plan.data)
    check_may_run_in(directory)
    require_packages(plan)
    run = create(directory, needed_bytes=needed_disk_bytes(plan))
    with locked(run):
        code = begin_or_resume(plan, run, resume=resume)
    if record and code == 0:
        print(f"recorded: {write_record(run)}")
    return code


def begin_or_resume(plan: Plan, run: RunDirectory, *, resume: bool) -> int:
    if not resume:
        check_nothing_to_resume(run)
        plan, notes = suited(plan)
        tell(notes)
        return execute(plan, run)
    running = interrupted_plan(plan, run)
    saved, passed_over = saved_state(running, run)
    running, notes = suited(running)
    since = "the beginning: nothing is saved" if saved is None else f"step {saved.step}"
    tell([*notes, *passed_over, f"going on from {since}"])
    return execute(running, run, saved)


def tell(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


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
        attention=plan.attention,
        compute=plan.precision.compute,
        packing=plan.batch.packing,
        quant_type=None if plan.quantization is None else plan.quantization.quant_type,
    )
    rule = broken_rule(combination, pinned=frozenset(get_args(Pinned)))
    if rule is not None:
        offload = plan.parallel.offload
        under = plan.parallel.strategy + (f" with offload {offload}" if offload != "none" else "")
        raise InvalidRequestError(
            f"{plan.method} with {plan.optimizer.name} under {under} on "
            f"{plan.hardware.device} is refused: {rule.reason}. Plan again."
        )
    if plan.precision.compute == "fp16" and plan.hardware.device == "cpu":
        raise InvalidRequestError(
            "precision.compute fp16 needs a GPU: PyTorch scales no gradients on the CPU. "
            "Set it to bf16 or fp32"
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
