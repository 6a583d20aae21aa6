"""A run from its plan to its result: prepare, train, show."""

import os
import sys
from collections.abc import Mapping

from launcher.attempts import attempt_of, begin_attempt, end_attempt
from launcher.checkpoints import SavedState, discard_torn, last_whole
from launcher.command import (
    planned_environment,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.deepspeed_config import deepspeed_config
from launcher.ending import (
    Ended,
    how_it_ended,
    say,
    show_preparation_failure,
    show_result,
    show_training_failure,
)
from launcher.failure import forget_failures
from launcher.fallbacks import describe_layout, fallback_plans
from launcher.inputs import inputs_before
from launcher.plan_file import plan_text
from launcher.process import run_to_end
from launcher.run_directory import RunDirectory, write_json
from launcher.stages import places
from launcher.watch import Watch
from planner.plan import Plan
from planner.whole_file import write_whole


def execute(plan: Plan, run: RunDirectory, saved: SavedState | None = None) -> int:
    """Prepare, train, show; the training's exit code."""
    environment = planned_environment(plan, os.environ)
    write_plan(plan, run)
    if saved is None:
        run.attempts.unlink(missing_ok=True)
        run.inputs.unlink(missing_ok=True)
    inputs = inputs_before(run)
    if inputs is None or not inputs.are_there:
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
    say("stopping behind this step, with a checkpoint; once more to stop at once")
    return True


def write_plan(plan: Plan, run: RunDirectory) -> None:
    """The plan as it is run, which a fallback changes."""
    write_whole(run.plan, plan_text(plan))
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)
