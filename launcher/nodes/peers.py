"""The other nodes of a run, as the launching process of one of them deals with them.

The leader announces what comes next, and all nodes watch each other. What ends a node's part is
reported with the name of the node that is to blame.
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
from launcher.lifecycle.attempt_loop import Nodes
from launcher.nodes.heartbeat import BEAT_SECONDS, SILENT_SECONDS, Beat, Heart, NodeState, Peer
from launcher.nodes.node_identity import Endpoint, Node, network_environment
from launcher.nodes.reachability import wait_until_listening
from launcher.run.process import LOOK_SECONDS, STOPPED
from launcher.run.rank_commands import JOIN_SECONDS, Rendezvous
from launcher.run.run_directory import RunDirectory
from planner.base.phrases import Phrase
from planner.plan.schema import Plan

GRACE_SECONDS = 10.0
"""Seconds for ranks to notice that those of another node have ended: they record why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisNode:
    """This node of a run, with what it needs to deal with the others."""

    node: Node
    endpoint: Endpoint
    run: RunDirectory
    heart: Heart


class SeveralNodes(Nodes):
    """The nodes of a run on several. ``peers`` are all but this one; one of all leads."""

    def __init__(
        self,
        plan: Plan,
        here: ThisNode,
        peers: Sequence[Peer],
        *,
        max_restarts: int,
        shown_samples: int = 1,
    ) -> None:
        super().__init__(max_restarts=max_restarts, shown_samples=shown_samples)
        self._here, self._peers = here, peers
        self._num_nodes = plan.parallel.num_nodes
        self.environment = network_environment(here.node)
        self.attempt = 0
        """Number of the ranks' start, from 1, which is added to the endpoint's port."""
        self._peer_failure: PeerFailure | None = None
        self._awaited: set[str] = set()
        """Addresses of failed nodes that may return."""
        self._listened_at, self._over_at = float("-inf"), float("inf")

    @property
    def peer_failure(self) -> PeerFailure | None:
        """The failure of another node that ended this node's part."""
        return self._peer_failure

    def announce_preparation(self) -> None:
        """Tell the other nodes that this one prepares its inputs."""
        self._here.heart.say("preparing")

    def join_attempt(self) -> Rendezvous:
        """Return the rendezvous of the next attempt, once it can begin.

        The leader waits until every node is ready, and the others wait for the leader's store.
        """
        here = self._here
        if here.node.leads:
            self._wait_until_ready()
            self.attempt += 1
        here.heart.say("training", attempt=self.attempt)
        if not here.node.leads:
            # Torch elastic would wait for the store for a minute at most.
            wait_until_listening(here.endpoint.after(self.attempt), JOIN_SECONDS, self.look)
        return rendezvous_of(here.node, here.endpoint, self.attempt, self._num_nodes)

    def announce_ready(self) -> None:
        """Tell the other nodes that this node's inputs are prepared."""
        self._here.heart.say("ready")

    def _wait_until_ready(self) -> None:
        """Wait for the preparation of every other node, longer than torch elastic would."""
        while not self.look():
            if all(p.is_lost or p.beat.state not in ("meeting", "preparing") for p in self._peers):
                break
            time.sleep(LOOK_SECONDS)

    def look(self) -> bool:
        """Return whether another node has ended this node's part."""
        self._listen()
        if self._peer_failure is None:
            self._peer_failure = self._find_peer_failure()
        if self._peer_failure is not None:
            return True
        for peer in self._peers:
            self._notice(peer)
        return self._left_behind()

    def await_leader_state(self, *states: NodeState) -> Beat | None:
        """Wait until the leader is in one of the states, in a new attempt if it trains.

        Return its beat, or None if another node has ended this node's part.
        """
        (leader,) = (peer for peer in self._peers if peer.leads)
        while not self.look():
            beat = leader.beat
            is_new = beat.state != "training" or beat.attempt > self.attempt
            if leader.heard and beat.state in states and is_new:
                return beat
            time.sleep(LOOK_SECONDS)
        return None

    def blame(self, code: int, hung: str | None) -> PeerFailure | None:
        """Return the failure of another node that is to blame for the end of an attempt, or None.

        If this node's ranks cannot know why they failed, wait until the other nodes have said how
        their part ended, or have been silent for too long.
        """
        self._here.heart.say("over", attempt=self.attempt, code=code, message=hung or "")
        if code == 0 or code in STOPPED or hung is not None or self._knows_why():
            return self._peer_failure
        end = time.monotonic() + SILENT_SECONDS + 2 * BEAT_SECONDS
        while self._peer_failure is None and time.monotonic() < end and self._others_may_say_more():
            time.sleep(LOOK_SECONDS)
            self._listen()
            self._peer_failure = self._failed_node(may_return=False)
        return self._peer_failure or self._hang_elsewhere()

    def announce_end(self, outcome: Outcome) -> None:
        """Tell the other nodes how this node's run ended."""
        self._here.heart.say(
            "done" if outcome.code == 0 else "failed",
            attempt=self.attempt,
            code=outcome.code,
            message=str(outcome),
        )

    def shows_result(self, run: RunDirectory) -> bool:
        """Return whether rank 0, which has shown the training, was on this node."""
        positions = rank_positions(run.ranks)
        if positions and positions[0].node == self._here.node.address:
            return True
        node = positions[0].node if positions else Phrase("another node")
        say(Phrase("finished; rank 0 was on {node}: {path}", node=node, path=run.path))
        return False

    def _listen(self) -> None:
        if time.monotonic() - self._listened_at >= BEAT_SECONDS:
            for peer in self._peers:
                peer.listen()
            self._listened_at = time.monotonic()

    def _find_peer_failure(self) -> PeerFailure | None:
        for peer in self._peers:
            if peer.heard and peer.beat.state == "failed":
                reason = Phrase(
                    "node {peer} ended the run: {message}", peer=peer, message=peer.beat.message
                )
                return PeerFailure(reason=reason, code=peer.beat.code or 1)
        return self._failed_node(may_return=self.max_restarts > 0)

    def _failed_node(self, *, may_return: bool) -> PeerFailure | None:
        """Return the failure of a node that cannot return; the leader never can, with its store."""
        for peer in self._peers:
            failed = Phrase("node {peer} failed", peer=peer)
            if peer.is_lost and (peer.leads or not may_return):
                return PeerFailure(
                    reason=Phrase(
                        "{failed}: no heartbeat for {seconds:g} s",
                        failed=failed,
                        seconds=SILENT_SECONDS,
                    )
                )
            if peer.leads and self._here.heart.unreached_s > SILENT_SECONDS:
                return PeerFailure(
                    reason=Phrase(
                        "{failed}: not reachable for {seconds:g} s",
                        failed=failed,
                        seconds=SILENT_SECONDS,
                    )
                )
        return None

    def _hang_elsewhere(self) -> PeerFailure | None:
        """Return what the watch of another node has found out about this attempt, if anything."""
        for peer in self._peers:
            beat = peer.beat
            if peer.heard and (beat.state, beat.attempt) == ("over", self.attempt) and beat.message:
                return PeerFailure(
                    reason=Phrase("node {peer}: {message}", peer=peer, message=beat.message)
                )
        return None

    def _notice(self, peer: Peer) -> None:
        """End the ranks here if another node has failed and may return.

        Torch elastic restarts them, and they wait for it.
        """
        if peer.is_lost and peer.address not in self._awaited:
            self._awaited.add(peer.address)
            say(
                Phrase(
                    "node {peer} failed: no heartbeat for {seconds:g} s; waiting for it: "
                    "run the same command there to resume from the last checkpoint",
                    peer=peer,
                    seconds=SILENT_SECONDS,
                )
            )
            run = self._here.run
            signal_all(positions_here(rank_positions(run.ranks), run.node), signal.SIGKILL)
        elif not peer.is_lost and peer.address in self._awaited:
            self._awaited.remove(peer.address)
            say(Phrase("node {peer} is back", peer=peer))

    def _left_behind(self) -> bool:
        """Return whether the ranks here still wait for those of a node whose ranks have ended."""
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

    def _others_may_say_more(self) -> bool:
        return any(
            peer.beat.attempt < self.attempt or peer.beat.state in ("training", "preparing")
            for peer in self._peers
        )


def rendezvous_of(node: Node, endpoint: Endpoint, number: int, num_nodes: int) -> Rendezvous:
    """Return the rendezvous of a number: 0 for the first meeting, then one per attempt."""
    return Rendezvous(
        endpoint=str(endpoint.after(number)),
        id=f"tuneplan-{number}",
        num_nodes=num_nodes,
        address=node.address,
        hosts_store=node.leads,
    )
