"""A run from its plan to its result: prepare, train, show."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from launcher.attempts import attempt_of, begin_attempt, end_attempt
from launcher.checkpoints import SavedState, discard_torn, last_whole
from launcher.command import (
    environment_changes,
    merged_environment,
    num_cores,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.deepspeed_config import deepspeed_config
from launcher.failure import Failure, first_failure, forget_failures
from launcher.fallbacks import describe_layout, fallback_plans
from launcher.plan_file import plan_text
from launcher.process import SIGNALLED, STOPPED, failed_rank, run_to_end
from launcher.run_directory import RunDirectory, read_json, write_json
from launcher.stages import places
from launcher.summary import (
    closing_lines,
    describe_exit,
    failure_lines,
    hang_lines,
    summary_table,
)
from launcher.watch import Watch
from planner.errors import UserError
from planner.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended."""

    code: int
    stopped_by: str | None = None
    failure: Failure | None = None
    hung: str | None = None
    """Who is waited for, in words."""
    rank: int = 0
    """Whose log tells most."""

    @property
    def ran_out_of_memory(self) -> bool:
        return self.failure is not None and self.failure.cause == "out_of_memory"

    def __str__(self) -> str:
        if self.stopped_by is not None:
            return f"stopped by {self.stopped_by}"
        if self.hung is not None:
            return self.hung
        if self.failure is None:
            return "finished" if self.code == 0 else f"exit code {self.code}"
        what = self.failure.cause.replace("_", " ")
        return f"{what} on rank {self.failure.rank}, {self.failure.where}"


def execute(plan: Plan, run: RunDirectory, saved: SavedState | None = None) -> int:
    """Prepare, train, show; the training's exit code."""
    environment = merged_environment(os.environ, environment_changes(plan, cores=num_cores()))
    write_plan(plan, run)
    if saved is None or not run.inputs.is_file():
        run.attempts.unlink(missing_ok=True)
        prepare = preparation_command(run.path, python=sys.executable)
        code = run_to_end(prepare, environment, run.preparation_log)
        if code != 0:
            show_preparation_failure(run, code)
            return code
    plan, ended = train_as_memory_allows(plan, run, environment, saved)
    if ended.code == 0:
        show_result(plan, run)
    else:
        show_training_failure(run, ended)
    return ended.code


def train_as_memory_allows(
    plan: Plan, run: RunDirectory, environment: Mapping[str, str], saved: SavedState | None
) -> tuple[Plan, Ended]:
    """Train; where memory runs out go on from the last checkpoint with the plan's next layout."""
    while True:
        ended = train_once(plan, run, environment, saved)
        leaner = fallback_plans(plan)
        if not ended.ran_out_of_memory or not leaner:
            return plan, ended
        plan = leaner[0]
        saved, _ = last_whole(run.checkpoints)
        since = "the beginning" if saved is None else f"step {saved.step}"
        say(f"{ended}: going on from {since} with {describe_layout(plan)}, the same global batch")
        write_plan(plan, run)


def train_once(
    plan: Plan, run: RunDirectory, environment: Mapping[str, str], saved: SavedState | None
) -> Ended:
    """Start the ranks and wait for their end."""
    run.stop.unlink(missing_ok=True)
    forget_failures(run.ranks)
    discard_torn(run.checkpoints)
    begin_attempt(run, attempt_of(plan, from_step=saved.step if saved else 0))
    watch = Watch(run.ranks, limit_s=plan.training.hang_limit_s)
    code = run_to_end(
        torchrun_command(
            plan,
            run.path,
            python=sys.executable,
            checkpoint=saved.folder if saved else None,
        ),
        rank_environment(plan, environment),
        run.launcher_log,
        ask_to_stop=lambda number: ask_ranks_to_stop(run, number),
        look=watch.look,
    )
    ended = how_it_ended(run, code, watch)
    end_attempt(run, str(ended))
    return ended


def ask_ranks_to_stop(run: RunDirectory, number: int) -> bool:
    """Whether the ranks will save and stop by themselves: once they train they do."""
    if not any(place.step for place in places(run.ranks)):
        return False
    run.stop.write_text(str(number), encoding="utf-8")
    say("stopping behind this step, with a checkpoint; Ctrl-C to stop at once")
    return True


def how_it_ended(run: RunDirectory, code: int, watch: Watch) -> Ended:
    if code == 0 and not run.report.exists():
        code = SIGNALLED + int(run.stop.read_text(encoding="utf-8"))
    if code in STOPPED:
        return Ended(code=code, stopped_by=STOPPED[code])
    if watch.hung:
        return Ended(code=code, hung=watch.verdict(), rank=watch.waited_for[0].rank)
    return Ended(code=code, failure=first_failure(run.ranks) if code else None)


def write_plan(plan: Plan, run: RunDirectory) -> None:
    """The plan as it is run, which a fallback changes."""
    partial = run.plan.with_name(".plan.yaml.partial")
    partial.write_text(plan_text(plan), encoding="utf-8")
    partial.replace(run.plan)
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)


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


def show_training_failure(run: RunDirectory, ended: Ended) -> None:
    saved, _ = last_whole(run.checkpoints)
    rest = f"; step {saved.step} is saved: --resume goes on" if saved else ""
    if ended.stopped_by is not None:
        say(f"error: training was stopped by {ended.stopped_by}{rest or '; nothing was saved'}")
    elif ended.hung is not None:
        for line in hang_lines(run.rank_log(ended.rank), ended.hung + rest):
            say(line)
    elif ended.failure is not None and ended.failure.cause != "other":
        say(f"error: {failure_sentence(ended.failure)}{rest}")
    else:
        show_unexpected(run, ended, rest)


def failure_sentence(failure: Failure) -> str:
    if failure.cause != "out_of_memory":
        return f"rank {failure.rank}: {failure.message}"
    return (
        f"GPU memory ran out on rank {failure.rank} ({failure.where}), and the plan has no leaner "
        f"layout of its strategy: take shorter sequences, or plan again ({failure.message})"
    )


def show_unexpected(run: RunDirectory, ended: Ended, rest: str) -> None:
    failed = failed_rank(run.launcher_log)
    if failed is None:
        show_log(run.launcher_log, f"training ended with exit code {ended.code}{rest}")
        return
    rank, exit_code = failed
    if ended.failure is not None and exit_code > 0:
        rank = ended.failure.rank
    what = f"training failed: rank {rank} {describe_exit(exit_code)}{rest}"
    show_log(run.rank_log(rank), what)


def show_log(log_file: Path, what: str) -> None:
    for line in failure_lines(log_file, what):
        say(line)


def say(line: str) -> None:
    print(line, file=sys.stderr)
