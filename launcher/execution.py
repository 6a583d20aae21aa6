"""A run from its plan to its result: prepare, train, show."""

import os
import sys
from pathlib import Path

from rich.console import Console

from launcher.command import (
    environment_changes,
    merged_environment,
    num_cores,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.deepspeed_config import deepspeed_config
from launcher.plan_file import plan_text
from launcher.process import STOPPED, failed_rank, run_to_end
from launcher.run_directory import RunDirectory, read_json, write_json
from launcher.summary import (
    closing_lines,
    describe_exit,
    failure_lines,
    out_of_memory_advice,
    ran_out_of_memory,
    summary_table,
)
from planner.errors import UserError
from planner.plan import Plan


def execute(plan: Plan, run: RunDirectory) -> int:
    """Prepare, train, show; the training's exit code."""
    run.plan.write_text(plan_text(plan), encoding="utf-8")
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)
    environment = merged_environment(os.environ, environment_changes(plan, cores=num_cores()))

    prepare = preparation_command(run.path, python=sys.executable)
    code = run_to_end(prepare, environment, run.preparation_log)
    if code != 0:
        show_preparation_failure(run, code)
        return code

    command = torchrun_command(plan, run.path, python=sys.executable)
    code = run_to_end(command, rank_environment(plan, environment), run.launcher_log)
    if code == 0:
        show_result(plan, run)
    else:
        show_training_failure(plan, run, code)
    return code


def show_result(plan: Plan, run: RunDirectory) -> None:
    report = read_json(run.report)
    console = Console(highlight=False)
    console.print(summary_table(plan, report))
    for line in closing_lines(plan, run, report):
        console.print(line, markup=False, soft_wrap=True)


def show_preparation_failure(run: RunDirectory, code: int) -> None:
    if code == UserError.exit_code:
        return  # it has said what is wrong
    if code in STOPPED:
        say(f"error: stopped by {STOPPED[code]} before the training began")
    else:
        show_log(run.preparation_log, f"preparing the run ended with exit code {code}")


def show_training_failure(plan: Plan, run: RunDirectory, code: int) -> None:
    if code in STOPPED:
        say(f"error: training was stopped by {STOPPED[code]}; {run.path} holds what was logged")
        return
    failed = failed_rank(run.launcher_log)
    if failed is None:
        show_log(run.launcher_log, f"training ended with exit code {code}")
        return
    rank, exit_code = failed
    log_file = run.rank_log(rank)
    show_log(log_file, f"training failed: rank {rank} {describe_exit(exit_code)}")
    if ran_out_of_memory(log_file):
        say(out_of_memory_advice(plan))


def show_log(log_file: Path, what: str) -> None:
    for line in failure_lines(log_file, what):
        say(line)


def say(line: str) -> None:
    print(line, file=sys.stderr)
