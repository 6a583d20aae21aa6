"""The command ``launch``: its options, and which part of the launcher each combination starts."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

from launcher.chatglm.command import WeightLayout
from launcher.cli.other_tasks import Task, check_options, without_plan
from launcher.engines.engine import EngineName
from launcher.engines.job import Job
from launcher.engines.submission import require_engine, run_job, settings_of
from launcher.lifecycle.begin import StartOptions, check_data_of, probe, tell, train
from launcher.lifecycle.dry_run import dry_run_text
from launcher.lifecycle.plan_rules import require_possible
from launcher.lifecycle.preflight import repredicted, require_packages
from launcher.nodes.launch import launch_node, require_endpoint
from launcher.run.rank_commands import (
    num_cores,
    planned_environment,
    rank_environment,
)
from launcher.run.read_plan import read_plan
from launcher.run.run_directory import RunDirectory, directory_of
from planner.base.command_line import Argument, Option, run_command
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.preset_files import preset_names
from planner.base.printable import print_text
from planner.base.text_files import read_text
from planner.base.user_folders import home_folder
from planner.plan.data_section import DataErrors
from planner.plan.plan_file import is_untouched
from planner.plan.schema import Plan


def _card_names() -> list[str]:
    return preset_names("gpus")


def launch(
    plan_file: Annotated[
        Path | None, Argument("Plan to run, as the command plan writes it.", metavar="PLAN")
    ] = None,
    *,
    data: Annotated[
        str | None,
        Option(
            "Training data instead of the plan's: a JSON, JSON Lines, CSV or Parquet file, a "
            "folder of them, a data set on the hub, or several separated by commas.",
            metavar="FILE|NAME",
            group="data",
        ),
    ] = None,
    data_errors: Annotated[
        DataErrors | None,
        Option("What to do at a bad record: stop, or skip and count it.", group="data"),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "Run directory instead of the plan's; with --merge, the folder of the merged weights; "
            "with --html, the page's file.",
            metavar="DIR",
            flags=("--output", "-o"),
            group="run",
        ),
    ] = None,
    resume: Annotated[bool, Option("Resume the run in the run directory.", group="run")] = False,
    begin_or_resume: Annotated[
        bool,
        Option(
            "Begin the run, or resume it if it has begun; for a job that is started again.",
            group="run",
        ),
    ] = False,
    on: Annotated[
        EngineName,
        Option("Engine that runs the plan; local is this machine.", group="engine and nodes"),
    ] = "local",
    engine_settings: Annotated[
        list[str] | None,
        Option(
            "Setting of the engine, such as partition=gpu; may be repeated.",
            metavar="KEY=VALUE",
            flags=("--with",),
            group="engine and nodes",
        ),
    ] = None,
    rdzv_endpoint: Annotated[
        str | None,
        Option(
            "Rendezvous address of a multi-node run (one of the nodes); run the same command on "
            "each node.",
            metavar="HOST[:PORT]",
            group="engine and nodes",
        ),
    ] = None,
    max_restarts: Annotated[
        int,
        Option(
            "How often to restart the ranks after a failure or a lost node.", minimum=0, group="run"
        ),
    ] = 0,
    detach: Annotated[
        bool, Option("Submit the job, and do not wait for its end.", group="engine and nodes")
    ] = False,
    followed: Annotated[
        Path | None,
        Option(
            "Show the output of a submitted job; takes no PLAN.",
            metavar="RUN_DIR",
            flags=("--follow",),
            group="engine and nodes",
        ),
    ] = None,
    cancelled: Annotated[
        Path | None,
        Option(
            "End a submitted job; takes no PLAN.",
            metavar="RUN_DIR",
            flags=("--cancel",),
            group="engine and nodes",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("Show what would be run, and write nothing.", group="check")
    ] = False,
    rehearse: Annotated[
        bool,
        Option(
            "Compare the memory of one step, run or traced without data and weights, with the "
            "prediction.",
            group="check",
        ),
    ] = False,
    simulate: Annotated[
        str | None,
        Option(
            "Rehearse on simulated cards, with the CUDA build of torch; with --rehearse.",
            metavar="CARD[:N]",
            group="check",
            known=_card_names,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        Option(
            "Print JSON, with --rehearse, --doctor or --compare.", flags=("--json",), group="check"
        ),
    ] = False,
    doctor: Annotated[
        bool, Option("Check this machine and the installed packages; takes no PLAN.", group="check")
    ] = False,
    merge: Annotated[
        Path | None,
        Option(
            "Merge a run's adapter into 16-bit weights; takes no PLAN.",
            metavar="RUN_DIR",
            group="afterwards",
        ),
    ] = None,
    chat: Annotated[
        Path | None,
        Option(
            "Talk to the model of a finished run; takes no PLAN. Lines of a pipe are answered too.",
            metavar="RUN_DIR",
            group="afterwards",
        ),
    ] = None,
    system: Annotated[
        str | None,
        Option(
            "System message of --chat, instead of the data's own.",
            metavar="TEXT",
            group="afterwards",
        ),
    ] = None,
    compared: Annotated[
        tuple[Path, ...] | None,
        Option(
            "Show finished runs side by side: loss, speed, memory, and what differs; takes no "
            "PLAN.",
            metavar="RUN_DIR",
            flags=("--compare",),
            group="afterwards",
        ),
    ] = None,
    html: Annotated[
        tuple[Path, ...] | None,
        Option(
            "Write a page on a run, finished or not, or on two beside each other: loss, speed, "
            "memory, settings; takes no PLAN.",
            metavar="RUN_DIR",
            group="run",
        ),
    ] = None,
    record: Annotated[
        bool,
        Option("Write the finished run as a measured one for benchmarks/accuracy.", group="run"),
    ] = False,
    probe_steps: Annotated[
        int | None,
        Option(
            "Time so many real steps of the longest batch, and save nothing but their record for "
            "later plans.",
            metavar="N",
            flags=("--probe",),
            minimum=1,
            group="check",
        ),
    ] = None,
    show_sample: Annotated[
        int,
        Option("How many samples to show as they are learnt.", metavar="N", minimum=0, group="run"),
    ] = 1,
    settings: Annotated[
        list[str] | None,
        Option(
            "Change a key of the plan, such as training.max_steps=12; may be repeated.",
            metavar="KEY=VALUE",
            flags=("--set",),
            group="run",
        ),
    ] = None,
    conversion: Annotated[
        tuple[Path, Path] | None,
        Option(
            "Convert a ChatGLM checkpoint; takes no PLAN.",
            metavar="SRC DST",
            flags=("--convert",),
            group="checkpoint",
        ),
    ] = None,
    to: Annotated[
        WeightLayout | None,
        Option("Layout that --convert writes; native if left out.", group="checkpoint"),
    ] = None,
) -> int:
    """Run the training that PLAN describes.

    Examples:
      launch plan.yaml
      launch plan.yaml --data my.jsonl
      launch plan.yaml --set training.max_steps=20
      launch plan.yaml --dry-run
      launch plan.yaml --resume
      launch --doctor
      launch --chat runs/qwen2.5-7b-qlora
      launch --merge runs/qwen2.5-7b-qlora
      launch --html runs/qwen2.5-7b-qlora
    """
    task = Task(
        doctor=doctor,
        as_json=as_json,
        merge=merge,
        chat=chat,
        system=system,
        compare=compared,
        conversion=conversion,
        to=to,
        follow=followed,
        cancel=cancelled,
        html=html,
    )
    check_options(task, rehearse=rehearse, simulate=simulate)
    if plan_file is None or task.given:
        return without_plan(task, plan_file, output)
    home_folder()  # libraries keep files there
    plan = read_plan(
        plan_file, settings=settings or [], data=data, data_errors=data_errors, output=output
    )
    require_possible(plan)
    if settings or not is_untouched(read_text(plan_file)):
        plan, notes = repredicted(plan, settings or [])
        tell(notes)
    if rehearse or probe_steps is not None:
        require_packages(plan)
    if rehearse:
        rehearse_plan(plan, simulate, as_json=as_json)
        return 0
    if probe_steps is not None:
        require_local_probe(on, resume=resume or begin_or_resume, dry_run=dry_run)
        return probe(plan, directory_of(plan), probe_steps)
    start = StartOptions(
        resume=resume,
        begin_or_resume=begin_or_resume,
        max_restarts=max_restarts,
        record=record,
        shown_samples=show_sample,
    )
    if on != "local":
        if rdzv_endpoint is not None:
            raise InvalidRequestError(
                Phrase("--on {on} chooses the rendezvous address: leave --rdzv-endpoint out", on=on)
            )
        job = Job(
            plan=plan,
            directory=directory_of(plan).absolute(),
            python=sys.executable,
            start=start,
            settings=settings_of(engine_settings or []),
        )
        return run_job(on, job, dry_run=dry_run, detach=detach)
    require_engine({"--with": engine_settings, "--detach": detach})
    return run_here(plan, start, rdzv_endpoint, dry_run=dry_run)


def require_local_probe(on: EngineName, *, resume: bool, dry_run: bool) -> None:
    """Raise ``InvalidRequestError`` for an option that a probe cannot be combined with."""
    others = {f"--on {on}": on != "local", "--resume": resume, "--dry-run": dry_run}
    for option, given in others.items():
        if given:
            raise InvalidRequestError(
                Phrase(
                    "--probe cannot be combined with {option}: it makes a few steps here and now",
                    option=option,
                )
            )


def run_here(plan: Plan, start: StartOptions, rdzv_endpoint: str | None, *, dry_run: bool) -> int:
    """Train on this machine, alone or as one node of several; return the exit code."""
    directory = directory_of(plan)
    run = RunDirectory(directory)
    if dry_run:
        check_data_of(plan)
    if plan.parallel.num_nodes > 1:
        endpoint = require_endpoint(plan, rdzv_endpoint)
        return launch_node(plan, directory, endpoint, start, dry_run=dry_run)
    if dry_run:
        restarts = start.max_restarts
        text = dry_run_text(
            plan, run, python=sys.executable, cores=num_cores(), max_restarts=restarts
        )
        print_text(text, end="")
        return 0
    return train(plan, directory, start)


def rehearse_plan(plan: Plan, simulate: str | None, *, as_json: bool) -> None:
    """Rehearse a plan, in this process in the environment that its ranks would have.

    The environment decides how the allocator works. What the training stack logs at its import is
    not shown.
    """
    if simulate is not None:
        from launcher.rehearsal.simulated import rehearse_simulated

        rehearse_simulated(plan, simulate, as_json=as_json)
        return
    environment = rank_environment(plan, planned_environment(plan, os.environ))
    os.environ.clear()
    os.environ.update(environment)
    logging.disable(logging.WARNING)
    from launcher.rehearsal.rehearse import rehearse

    rehearse(plan, as_json=as_json)


def main() -> int:
    """Run ``launch`` and return its exit code."""
    return run_command(launch)
