"""A run from its plan to its result: prepare, train as memory allows, show."""

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
from launcher.lifecycle.fallbacks import describe_layout, fallback_plans, within_room
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
from planner.base.phrases import Phrase
from planner.plan.schema import Plan


class Nodes:
    """The nodes of a run, as one of them deals with the others. This is a run on one node."""

    environment: Mapping[str, str] = {}
    """Variables that name the interface on which the nodes meet."""

    def __init__(self, *, max_restarts: int = 0, shown_samples: int = 1) -> None:
        self.max_restarts = max_restarts
        self.shown_samples = shown_samples

    def announce_preparation(self) -> None:
        """Tell the other nodes that the plan is written and inputs are prepared now."""

    def join_attempt(self) -> Rendezvous | None:
        """Wait until the next attempt can begin; return where its ranks meet, None on one node."""
        return None

    def look(self) -> bool:
        """Return whether to end this node's part; called while it runs."""
        return False

    @property
    def peer_failure(self) -> PeerFailure | None:
        """The failure of another node that ended this node's part."""
        return None

    def blame(self, code: int, hung: str | None) -> PeerFailure | None:
        """Return the failure of another node that ended an attempt, or None.

        ``code`` is the exit code of this node's part. ``hung`` is the line on ranks that were ended
        for want of progress.
        """
        return None

    def announce_end(self, outcome: Outcome) -> None:
        """Tell the other nodes how this node's run ended."""

    def shows_result(self, run: RunDirectory) -> bool:
        """Return whether this node is the one that prints the result."""
        return True


def execute(
    plan: Plan, run: RunDirectory, saved: SavedState | None = None, nodes: Nodes | None = None
) -> int:
    """Prepare, train and show the result; return the training's exit code.

    ``saved`` is the checkpoint to resume from, ``nodes`` the nodes of the run if there are several.
    """
    nodes = nodes or Nodes()
    environment = environment_of(plan, nodes)
    write_plan(plan, run)
    nodes.announce_preparation()
    if saved is None:
        run.attempts.unlink(missing_ok=True)
        run.inputs.unlink(missing_ok=True)
    inputs = inputs_before(run)
    if inputs is None or not inputs.are_there:
        outcome = prepare(run, environment, nodes)
        if outcome.code != 0:
            nodes.announce_end(outcome)
            return outcome.code
    plan, outcome = train_as_memory_allows(plan, run, environment, saved, nodes)
    if outcome.code != 0:
        show_training_failure(run, outcome)
    elif nodes.shows_result(run):
        show_result(plan, run)
    nodes.announce_end(outcome)
    return outcome.code


def environment_of(plan: Plan, nodes: Nodes) -> dict[str, str]:
    """Return the environment of this node's part of a run."""
    return planned_environment(
        plan, os.environ, network=nodes.environment, max_restarts=nodes.max_restarts
    )


def prepare(run: RunDirectory, environment: Mapping[str, str], nodes: Nodes) -> Outcome:
    """Prepare this node's inputs; return the outcome, whose reason has been printed."""
    command = preparation_command(run, python=sys.executable, shown_samples=nodes.shown_samples)
    code = run_to_end(command, environment, run.preparation_log, look=nodes.look)
    if nodes.peer_failure is None:
        return preparation_outcome(run, code)
    say(Phrase("error: {message}", message=nodes.peer_failure.reason))
    return Outcome(code=nodes.peer_failure.code, peer_failure=nodes.peer_failure)


def train_as_memory_allows(
    plan: Plan,
    run: RunDirectory,
    environment: Mapping[str, str],
    saved: SavedState | None,
    nodes: Nodes,
) -> tuple[Plan, Outcome]:
    """Train; when memory runs out, resume from the last checkpoint with the plan's next layout.

    Return the plan that ran last, and how its attempt ended.
    """
    while True:
        remove_leftovers(run)
        outcome = train_once(plan, run, environment, saved, nodes)
        attempt = attempt_of(plan, from_step=saved.step if saved else 0)
        try:
            end_attempt(run, attempt, str(outcome))
        except OSError as error:  # the disk is full, of which the outcome says more
            say(
                Phrase(
                    "note: {attempts} could not be written: {strerror}",
                    attempts=run.attempts,
                    strerror=error.strerror,
                )
            )
        if not outcome.ran_out_of_memory:
            return plan, outcome
        leaner, hopeless = within_room(fallback_plans(plan), outcome.room_bytes)
        for line in hopeless:
            say(line)
        if not leaner:
            return plan, outcome
        plan = leaner[0]
        saved, _ = last_whole(run.checkpoints)
        since = Phrase("the beginning") if saved is None else Phrase("step {step}", step=saved.step)
        say(
            Phrase(
                "{outcome}: resuming from {since} with {layout}, same global batch",
                outcome=str(outcome),
                since=since,
                layout=describe_layout(plan),
            )
        )
        write_plan(plan, run)


def remove_leftovers(run: RunDirectory) -> None:
    """Remove what an earlier attempt has left: its stop request, failures, torn checkpoints."""
    run.stop.unlink(missing_ok=True)
    forget_failures(run.ranks)
    discard_torn(run.checkpoints)


def train_once(
    plan: Plan,
    run: RunDirectory,
    environment: Mapping[str, str],
    saved: SavedState | None,
    nodes: Nodes,
) -> Outcome:
    """Start this node's ranks, wait for their end, and return how the attempt ended."""
    watch = HangWatch(run.ranks, limit_s=plan.training.hang_limit_s, node=run.node)

    def look() -> bool:
        watch.look()
        return nodes.look()

    code = run_to_end(
        torchrun_command(
            plan,
            run,
            python=sys.executable,
            checkpoint=saved.folder if saved else None,
            rendezvous=nodes.join_attempt(),
            max_restarts=nodes.max_restarts,
        ),
        rank_environment(plan, environment),
        run.launcher_log,
        ask_to_stop=lambda number: ask_ranks_to_stop(run, number),
        look=look,
    )
    hung = watch.describe() if watch.hung else None
    return outcome_of(run, code, watch, blamed=nodes.blame(code, hung))


def ask_ranks_to_stop(run: RunDirectory, number: int) -> bool:
    """Ask the ranks to save and stop; return False if none is training yet.

    ``number`` is that of the signal that was received.
    """
    if not any(place.step for place in positions_here(rank_positions(run.ranks), run.node)):
        return False
    write_whole(run.stop, str(number))
    say(Phrase("stopping after this step, with a checkpoint; press Ctrl-C to stop at once"))
    return True


def write_plan(plan: Plan, run: RunDirectory) -> None:
    """Write the plan as it is run, and DeepSpeed's configuration beside it for people to read."""
    write_whole(run.plan, plan_text(plan))
    config = deepspeed_config(plan)
    if config is not None:
        write_json(run.deepspeed, config)
