"""``launch plan.yaml``: run the training that a plan describes."""

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, get_args

import typer

from launcher.chatglm.command import Layout
from launcher.cli.other_tasks import Task, check_options, without_plan
from launcher.engines.engine import EngineName
from launcher.engines.job import Job
from launcher.engines.submission import require_engine, run_job, settings_of
from launcher.lifecycle.begin import Wanted, tell, train
from launcher.lifecycle.dry_run import dry_run_text
from launcher.lifecycle.preflight import refitted
from launcher.nodes.launch import launch_node, require_endpoint
from launcher.run.rank_commands import (
    num_cores,
    planned_environment,
    rank_environment,
)
from launcher.run.read_plan import read_plan
from launcher.run.run_directory import RunDirectory
from planner.base.command_line import run as run_command
from planner.base.errors import InvalidRequestError
from planner.plan.data_section import DataErrors
from planner.plan.optimizer_presets import optimizers
from planner.plan.schema import Plan
from planner.workload.rules import Combination, Pinned, broken_rule


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
    begin_or_resume: Annotated[
        bool,
        typer.Option("--begin-or-resume", help="Go on if the run has begun: a job started again."),
    ] = False,
    on: Annotated[
        EngineName, typer.Option("--on", help="What runs it; local is this machine.")
    ] = "local",
    engine_settings: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KEY=VALUE", help="For the engine: partition=gpu."),
    ] = None,
    rdzv_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Of several nodes, where they meet: one of them. The same command on each.",
        ),
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of the ranks, after a failure or a lost node.")
    ] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Submit the job and leave it.")] = False,
    followed: Annotated[
        Path | None,
        typer.Option("--follow", metavar="RUN_DIR", help="No PLAN: a submitted job's own lines."),
    ] = None,
    cancelled: Annotated[
        Path | None, typer.Option("--cancel", metavar="RUN_DIR", help="No PLAN: end that job.")
    ] = None,
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
    show_sample: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="How many samples to show as they are learnt."),
    ] = 1,
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
    task = Task(
        doctor=doctor,
        as_json=as_json,
        merge=merge,
        conversion=conversion,
        to=to,
        follow=followed,
        cancel=cancelled,
    )
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
    if on != "local":
        if rdzv_endpoint is not None:
            raise InvalidRequestError(
                f"--on {on} says where the nodes meet: leave --rdzv-endpoint out"
            )
        job = Job(
            plan=plan,
            directory=Path(plan.output.directory).absolute(),
            python=sys.executable,
            resume=resume,
            max_restarts=max_restarts,
            settings=settings_of(engine_settings or []),
        )
        raise typer.Exit(run_job(on, job, dry_run=dry_run, detach=detach))
    require_engine({"--with": engine_settings, "--detach": detach})
    wanted = Wanted(
        resume=resume,
        begin_or_resume=begin_or_resume,
        max_restarts=max_restarts,
        record=record,
        shown_samples=show_sample,
    )
    raise typer.Exit(run_here(plan, wanted, rdzv_endpoint, dry_run=dry_run))


def run_here(plan: Plan, wanted: Wanted, rdzv_endpoint: str | None, *, dry_run: bool) -> int:
    """On this machine, whole or as one node of several; an exit code."""
    directory = Path(plan.output.directory)
    run = RunDirectory(directory)
    if not dry_run and wanted.is_had(run):
        tell([f"{directory} already holds a finished run"])
        return 0
    if plan.parallel.num_nodes > 1:
        endpoint = require_endpoint(plan, rdzv_endpoint)
        return launch_node(plan, directory, endpoint, wanted, dry_run=dry_run)
    if dry_run:
        restarts = wanted.max_restarts
        text = dry_run_text(
            plan, run, python=sys.executable, cores=num_cores(), max_restarts=restarts
        )
        print(text, end="")
        return 0
    return train(plan, directory, wanted)


def rehearse_plan(plan: Plan, *, as_json: bool) -> None:
    """In the ranks' environment, since it decides how the allocator works.

    Imports the training stack, which says a lot that is not about this.
    """
    os.environ.update(rank_environment(plan, planned_environment(plan, os.environ)))
    logging.disable(logging.WARNING)
    from launcher.rehearsal.rehearse import rehearse

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


def main() -> None:
    """The console script."""
    run_command(launch)
