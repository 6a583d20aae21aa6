"""A run from its plan to its result: prepare, train, show."""

import os
import sys
from collections.abc import Mapping

from launcher.data.inputs import inputs_before
from launcher.faults.failure import forget_failures
from launcher.faults.hang_watch import HangWatch
from launcher.faults.outcome import (
    Outcome,
    PeerFailure,
    outcome_of,
    preparation_outcome,
    say,
    show_result,
    show_training_failure,
)
from launcher.faults.rank_stages import positions_here, rank_positions
from launcher.lifecycle.fallbacks import describe_layout, fallback_plans
from launcher.run.attempts import attempt_of, end_attempt
from launcher.run.checkpoints import SavedState, discard_torn, last_whole
from launcher.run.process import run_to_end
from launcher.run.rank_commands import (
    Rendezvous,
    planned_environment,
    preparation_command,
    rank_environment,
    torchrun_command,
)
from launcher.run.read_plan import plan_text
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from launcher.training.deepspeed_config import deepspeed_config
from planner.base.output_file import write_whole
from planner.plan.schema import Plan


class Company:
    """The nodes of a run as the one sees them that leads it; this is a run on one node."""

    environment: Mapping[str, str] = {}

    def __init__(self, *, max_restarts: int = 0, shown_samples: int = 1) -> None:
        self.max_restarts = max_restarts
        self.shown_samples = shown_samples

    def prepares(self) -> None:
        """The plan is written: every node prepares its inputs."""

    def trains(self) -> Rendezvous | None:
        """Before an attempt: where its ranks meet."""
        return None

    def look(self) -> bool:
        """Called while this node's part runs: whether to end it."""
        return False

    @property
    def trouble(self) -> PeerFailure | None:
        """Why it was ended."""
        return None

    def blamed(self, code: int, hung: str | None) -> PeerFailure | None:
        """After this node's part of an attempt: which other node is to blame. ``hung`` is the
        verdict on ranks that were ended for their silence."""
        return None

    def ends(self, ended: Outcome) -> None:
        """Nothing comes after this."""

    def shows(self, run: RunDirectory) -> bool:
        """Whether this node tells of the result."""
        return True


def execute(
    plan: Plan, run: RunDirectory, saved: SavedState | None = None, company: Company | None = None
) -> int:
    """Prepare, train, show; the training's exit code."""
    company = company or Company()
    environment = environment_of(plan, company)
    write_plan(plan, run)
    company.prepares()
    if saved is None:
        run.attempts.unlink(missing_ok=True)
        run.inputs.unlink(missing_ok=True)
    inputs = inputs_before(run)
    if inputs is None or not inputs.are_there:
        ended = prepare(run, environment, company)
        if ended.code != 0:
            company.ends(ended)
            return ended.code
    plan, ended = train_as_memory_allows(plan, run, environment, saved, company)
    if ended.code != 0:
        show_training_failure(run, ended)
    elif company.shows(run):
        show_result(plan, run)
    company.ends(ended)
    return ended.code


def environment_of(plan: Plan, company: Company) -> dict[str, str]:
    """Of this node's part."""
    return planned_environment(
        plan, os.environ, network=company.environment, max_restarts=company.max_restarts
    )


def prepare(run: RunDirectory, environment: Mapping[str, str], company: Company) -> Outcome:
    """This node's inputs; what is wrong is said."""
    command = preparation_command(run, python=sys.executable, shown_samples=company.shown_samples)
    code = run_to_end(command, environment, run.preparation_log, look=company.look)
    if company.trouble is None:
        return preparation_outcome(run, code)
    say(f"error: {company.trouble.reason}")
    return Outcome(code=company.trouble.code, peer_failure=company.trouble)


def train_as_memory_allows(
    plan: Plan,
    run: RunDirectory,
    environment: Mapping[str, str],
    saved: SavedState | None,
    company: Company,
) -> tuple[Plan, Outcome]:
    """Train; where memory runs out go on from the last checkpoint with the plan's next layout."""
    while True:
        clear_the_way(run)
        ended = train_once(plan, run, environment, saved, company)
        end_attempt(run, attempt_of(plan, from_step=saved.step if saved else 0), str(ended))
        leaner = fallback_plans(plan)
        if not ended.ran_out_of_memory or not leaner:
            return plan, ended
        plan = leaner[0]
        saved, _ = last_whole(run.checkpoints)
        since = "the beginning" if saved is None else f"step {saved.step}"
        say(f"{ended}: going on from {since} with {describe_layout(plan)}, the same global batch")
        write_plan(plan, run)


def clear_the_way(run: RunDirectory) -> None:
    """What an earlier attempt has left."""
    run.stop.unlink(missing_ok=True)
    forget_failures(run.ranks)
    discard_torn(run.checkpoints)


def train_once(
    plan: Plan,
    run: RunDirectory,
    environment: Mapping[str, str],
    saved: SavedState | None,
    company: Company,
) -> Outcome:
    """Start this node's ranks and wait for their end."""
    watch = HangWatch(run.ranks, limit_s=plan.training.hang_limit_s, node=run.node)

    def look() -> bool:
        watch.look()
        return company.look()

    code = run_to_end(
        torchrun_command(
            plan,
            run,
            python=sys.executable,
            checkpoint=saved.folder if saved else None,
            rendezvous=company.trains(),
            max_restarts=company.max_restarts,
        ),
        rank_environment(plan, environment),
        run.launcher_log,
        ask_to_stop=lambda number: ask_ranks_to_stop(run, number),
        look=look,
    )
    hung = watch.describe() if watch.hung else None
    return outcome_of(run, code, watch, blamed=company.blamed(code, hung))


def ask_ranks_to_stop(run: RunDirectory, number: int) -> bool:
    """Whether the ranks will save and stop by themselves: once they train they do."""
    if not any(place.step for place in positions_here(rank_positions(run.ranks), run.node)):
        return False
    write_whole(run.stop, str(number))
    say("stopping behind this step, with a checkpoint; Ctrl-C to stop at once")
    return True


def write_plan(plan: Plan, run: RunDirectory) -> None:
    """The plan as it is run, which a fallback changes."""
    write_whole(run.plan, plan_text(plan))
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)
