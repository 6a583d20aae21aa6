"""The other nodes of a run, as the launching process of one of them deals with them.

One that leads tells the others what comes next; all look after each other. What ends a node's
part is said with the name of the node that is to blame.
"""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.faults.failure import KNOWN_CAUSES, recorded_failures
from launcher.faults.hang_watch import signal_all
from launcher.faults.outcome import Outcome, PeerFailure, say
from launcher.faults.rank_stages import positions_here, rank_positions
from launcher.faults.root_cause import root_cause
from launcher.lifecycle.execution import Nodes
from launcher.nodes.heartbeat import BEAT_SECONDS, SILENT_SECONDS, Beat, Heart, Peer, State
from launcher.nodes.node_identity import Endpoint, Node, network_environment
from launcher.nodes.reachability import wait_until_listening
from launcher.run.process import LOOK_SECONDS, STOPPED
from launcher.run.rank_commands import JOIN_SECONDS, Rendezvous
from launcher.run.run_directory import RunDirectory
from planner.plan.schema import Plan

GRACE_SECONDS = 10.0
"""For ranks to notice by themselves that those of another node have ended: they know why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """One node of a run."""

    node: Node
    endpoint: Endpoint
    run: RunDirectory
    heart: Heart


class SeveralNodes(Nodes):
    """``peers`` are all other nodes; the one that leads is among them, or is this."""

    def __init__(self, plan: Plan, here: Here, peers: Sequence[Peer], *, max_restarts: int) -> None:
        super().__init__(max_restarts=max_restarts)
        self._here, self._peers = here, peers
        self._num_nodes = plan.parallel.num_nodes
        self.environment = network_environment(here.node)
        self.attempt = 0
        """Of the ranks' starts; its number is that of its port behind the endpoint's."""
        self._peer_failure: PeerFailure | None = None
        self._lost: set[str] = set()
        self._listened_at, self._over_at = float("-inf"), float("inf")

    @property
    def peer_failure(self) -> PeerFailure | None:
        return self._peer_failure

    def announce_preparation(self) -> None:
        self._here.heart.say("preparing")

    def join_attempt(self) -> Rendezvous:
        here = self._here
        if here.node.leads:
            self._wait_until_ready()
            self.attempt += 1
        here.heart.say("training", attempt=self.attempt)
        if not here.node.leads:
            # torch elastic itself gives up a store that is not there yet within a minute
            wait_until_listening(here.endpoint.after(self.attempt), JOIN_SECONDS, self.look)
        return rendezvous_of(here.node, here.endpoint, self.attempt, self._num_nodes)

    def is_ready(self) -> None:
        """This node's inputs are there."""
        self._here.heart.say("ready")

    def _wait_until_ready(self) -> None:
        """However long another node prepares: torch elastic would not wait for so long."""
        while not self.look():
            if all(p.is_lost or p.beat.state not in ("meeting", "preparing") for p in self._peers):
                break
            time.sleep(LOOK_SECONDS)

    def look(self) -> bool:
        """Whether another node has ended this one's part."""
        self._listen()
        if self._peer_failure is None:
            self._peer_failure = self._find_peer_failure()
        if self._peer_failure is not None:
            return True
        for peer in self._peers:
            self._notice(peer)
        return self._left_behind()

    def next_word(self, *states: State) -> Beat | None:
        """The leader's, once it is in one of the states, and in another attempt than before where
        it trains; nothing where the run is at its end."""
        (leader,) = (peer for peer in self._peers if peer.leads)
        while not self.look():
            beat = leader.beat
            is_new = beat.state != "training" or beat.attempt > self.attempt
            if leader.heard and beat.state in states and is_new:
                return beat
            time.sleep(LOOK_SECONDS)
        return None

    def blame(self, code: int, hung: str | None) -> PeerFailure | None:
        """Waits, where this node's ranks cannot know why they have failed, for the others to say
        how it went for them, or to be silent long enough."""
        self._here.heart.say("over", attempt=self.attempt, code=code, message=hung or "")
        if code == 0 or code in STOPPED or hung is not None or self._knows_why():
            return self._peer_failure
        end = time.monotonic() + SILENT_SECONDS + 2 * BEAT_SECONDS
        while self._peer_failure is None and time.monotonic() < end and self._awaits_word():
            time.sleep(LOOK_SECONDS)
            self._listen()
            self._peer_failure = self._lost_node(waits=False)
        return self._peer_failure or self._told()

    def announce_end(self, outcome: Outcome) -> None:
        self._here.heart.say(
            "done" if outcome.code == 0 else "failed",
            attempt=self.attempt,
            code=outcome.code,
            message=str(outcome),
        )

    def shows_result(self, run: RunDirectory) -> bool:
        """The node of rank 0, which has shown the training."""
        found = rank_positions(run.ranks)
        if found and found[0].node == self._here.node.address:
            return True
        say(f"finished; rank 0 was on {found[0].node if found else 'another node'}: {run.path}")
        return False

    def _listen(self) -> None:
        if time.monotonic() - self._listened_at >= BEAT_SECONDS:
            for peer in self._peers:
                peer.listen()
            self._listened_at = time.monotonic()

    def _find_peer_failure(self) -> PeerFailure | None:
        for peer in self._peers:
            if peer.heard and peer.beat.state == "failed":
                reason = f"node {peer} has ended the run: {peer.beat.message}"
                return PeerFailure(reason=reason, code=peer.beat.code or 1)
        return self._lost_node(waits=self.max_restarts > 0)

    def _lost_node(self, *, waits: bool) -> PeerFailure | None:
        """One that cannot come back: the store of the leader is gone with it."""
        for peer in self._peers:
            if peer.is_lost and (peer.leads or not waits):
                return PeerFailure(
                    reason=f"node {peer} failed: no heartbeat for {SILENT_SECONDS:g} s"
                )
            if peer.leads and self._here.heart.unreached_s > SILENT_SECONDS:
                return PeerFailure(
                    reason=f"node {peer} failed: not reachable for {SILENT_SECONDS:g} s"
                )
        return None

    def _told(self) -> PeerFailure | None:
        """What another node's watch has found out of this attempt."""
        for peer in self._peers:
            beat = peer.beat
            if peer.heard and (beat.state, beat.attempt) == ("over", self.attempt) and beat.message:
                return PeerFailure(reason=f"node {peer}: {beat.message}")
        return None

    def _notice(self, peer: Peer) -> None:
        """One that is lost and may come back: the ranks here are ended, torch elastic starts them
        again and waits for it."""
        if peer.is_lost and peer.address not in self._lost:
            self._lost.add(peer.address)
            say(
                f"node {peer} failed: no heartbeat for {SILENT_SECONDS:g} s; waiting for it: "
                "the same command there goes on from the last checkpoint"
            )
            run = self._here.run
            signal_all(positions_here(rank_positions(run.ranks), run.node), signal.SIGKILL)
        elif not peer.is_lost and peer.address in self._lost:
            self._lost.remove(peer.address)
            say(f"node {peer} is back")

    def _left_behind(self) -> bool:
        """Whether the ranks here go on waiting for those of a node that has ended its own."""
        over = any(
            peer.heard
            and peer.beat.state == "over"
            and peer.beat.attempt == self.attempt
            and peer.beat.code
            for peer in self._peers
        )
        self._over_at = min(self._over_at, time.monotonic()) if over else float("inf")
        return time.monotonic() - self._over_at > GRACE_SECONDS

    def _knows_why(self) -> bool:
        failure = root_cause(recorded_failures(self._here.run.ranks))
        return failure is not None and failure.cause in KNOWN_CAUSES

    def _awaits_word(self) -> bool:
        return any(
            peer.beat.attempt < self.attempt or peer.beat.state in ("training", "preparing")
            for peer in self._peers
        )


def rendezvous_of(node: Node, endpoint: Endpoint, number: int, num_nodes: int) -> Rendezvous:
    """The meeting's is number 0, and each attempt to train has the next."""
    return Rendezvous(
        endpoint=str(endpoint.after(number)),
        id=f"tuneplan-{number}",
        num_nodes=num_nodes,
        address=node.address,
        hosts_store=node.leads,
    )
