"""``launch plan.yaml --rdzv-endpoint HOST``, which is the same on every node of a run."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.data.inputs import inputs_before
from launcher.faults.outcome import Outcome, say, show_result, show_training_failure
from launcher.lifecycle.attempt_loop import environment_of, execute, prepare, train_once
from launcher.lifecycle.begin import StartOptions, begin, has_finished, tell
from launcher.lifecycle.dry_run import dry_run_text
from launcher.lifecycle.measured_run import write_record
from launcher.lifecycle.own_run import record_own_run
from launcher.lifecycle.preflight import needed_disk_bytes
from launcher.nodes.agreement import common_layout
from launcher.nodes.first_meeting import hold_first_meeting
from launcher.nodes.heartbeat import Heart, Peer
from launcher.nodes.meeting_result import MeetingResult, read_result, write_result
from launcher.nodes.node_facts import facts_of
from launcher.nodes.node_identity import (
    Endpoint,
    Node,
    endpoint_of,
    leader_address,
    network_environment,
    node_at,
)
from launcher.nodes.peers import SeveralNodes, ThisNode, rendezvous_of
from launcher.nodes.reachability import answers, listens, require_free_ports
from launcher.run.process import LOOK_SECONDS, SIGNALLED, STOPPED, heeded_signals
from launcher.run.rank_commands import JOIN_SECONDS, num_cores
from launcher.run.run_directory import RunDirectory, check_may_run_in, create, locked
from planner.base.errors import InvalidRequestError, UserError
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


def require_endpoint(plan: Plan, option: str | None) -> Endpoint:
    """Return the endpoint of ``--rdzv-endpoint``; raise ``InvalidRequestError`` without one."""
    if option is None:
        raise InvalidRequestError(
            Phrase(
                "the plan is for {num_nodes} nodes: run the same command on every node with "
                "--rdzv-endpoint HOST, the address of one of them, or let an engine do so "
                "(--on, see launch --help)",
                num_nodes=plan.parallel.num_nodes,
            )
        )
    return endpoint_of(option)


def launch_node(
    plan: Plan, directory: Path, endpoint: Endpoint, start: StartOptions, *, dry_run: bool
) -> int:
    """Run this node's part of a run, as its leader or as a follower; return the exit code."""
    node = node_at(endpoint)
    if dry_run:
        print_text(dry_run_of(plan, directory, endpoint, node, start), end="")
        return 0
    if has_finished(directory, start):
        return 0
    check_may_run_in(directory)
    if node.leads:
        require_free_ports(endpoint, 2 + len(plan.fallbacks))
    resumes = start.resumes(RunDirectory(directory))
    run = create(directory, needed_bytes=needed_disk_bytes(plan), node=node.address)
    heart = Heart(run.nodes, node, lambda: node.leads or answers(endpoint))
    here = ThisNode(node=node, endpoint=endpoint, run=run, heart=heart)
    with locked(run), heart, last_word(heart):
        if node.leads:
            return lead(plan, here, start, resumes=resumes)
        return follow(plan, here, start, resumes=resumes)


def lead(plan: Plan, here: ThisNode, start: StartOptions, *, resumes: bool) -> int:
    """Lead the run on the node that has the endpoint; return the exit code."""
    refusal, saved, lines, running = None, None, list[str](), plan
    try:
        running, saved, lines = begin(plan, here.run, resumes=resumes)
    except UserError as error:
        refusal = str(error)
    say(
        Phrase(
            "waiting at {endpoint} for {more} more {more[node|nodes]}",
            endpoint=here.endpoint,
            more=plan.parallel.num_nodes - 1,
        )
    )
    facts = facts_of(plan, here.node, resumes=resumes, refusal=refusal)
    result = hold_first_meeting(plan, here, facts)
    tell(lines)
    write_result(members_file(here.run), result)
    nodes = nodes_of(plan, here, result, start)
    code = execute(common_layout(result, running), here.run, saved, nodes)
    if code == 0:
        tell(record_own_run(here.run))
    if start.record and code == 0:
        print_text(Phrase("recorded: {file}", file=write_record(here.run)))
    return code


def follow(plan: Plan, here: ThisNode, start: StartOptions, *, resumes: bool) -> int:
    """Follow the leader of the run on another node; return the exit code."""
    leader = Peer(here.run.nodes, here.endpoint.host, leader_address(here.endpoint), leads=True)
    returns = await_leader(here.endpoint, leader)
    if returns:
        say(Phrase("node {leader} is already training: this node joins again", leader=leader))
        result = read_result(members_file(here.run))
    else:
        result = hold_first_meeting(plan, here, facts_of(plan, here.node, resumes=resumes))
    nodes = nodes_of(plan, here, result, start)
    outcome = follow_leader(here, nodes, keeps_inputs=returns or resumes)
    nodes.announce_end(outcome)
    return outcome.code


def follow_leader(here: ThisNode, nodes: SeveralNodes, *, keeps_inputs: bool) -> Outcome:
    """Prepare, and run one attempt after another as the leader announces them.

    Return how this node's part ended. Inputs of an earlier launch are used if ``keeps_inputs``.
    """
    if nodes.await_leader_state("preparing", "training") is None:
        return ended_by_peer(nodes)
    plan = read_spec(Plan, here.run.plan)
    environment = environment_of(plan, nodes)
    inputs = inputs_before(here.run) if keeps_inputs else None
    if inputs is None or not inputs.are_there:
        nodes.announce_preparation()
        outcome = prepare(here.run, environment, nodes)
        if outcome.code != 0:
            return outcome
    nodes.announce_ready()
    outcome = Outcome(code=0)
    while (beat := nodes.await_leader_state("training", "done")) and beat.state != "done":
        nodes.attempt = beat.attempt
        plan = read_spec(Plan, here.run.plan)
        outcome = train_once(plan, here.run, environment, None, nodes)
        if outcome.code != 0:
            show_training_failure(here.run, outcome)
    if beat is None:
        return outcome if outcome.code != 0 else ended_by_peer(nodes)
    if nodes.shows_result(here.run):
        show_result(plan, here.run)
    return Outcome(code=0)


def ended_by_peer(nodes: SeveralNodes) -> Outcome:
    """Print the failure of another node that ended this node's part, and return it."""
    assert nodes.peer_failure is not None
    say(Phrase("error: {reason}", reason=nodes.peer_failure.reason))
    return Outcome(code=nodes.peer_failure.code, peer_failure=nodes.peer_failure)


def await_leader(endpoint: Endpoint, leader: Peer) -> bool:
    """Wait until the leader can be joined; return whether its run has begun without this node.

    Raise ``InvalidRequestError`` if the leader has ended, or does not come.
    """
    say(Phrase("waiting for {endpoint}", endpoint=endpoint))
    end = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < end:
        leader.listen()
        if leader.heard and leader.beat.state in ("failed", "done"):
            raise InvalidRequestError(
                Phrase(
                    "node {leader} ended the run: {message}",
                    leader=leader,
                    message=leader.beat.message,
                )
            )
        if leader.heard and leader.beat.state != "meeting":
            return True
        if listens(endpoint):
            return False
        time.sleep(LOOK_SECONDS)
    raise InvalidRequestError(
        Phrase(
            "nothing has listened at {endpoint} for {minutes} min: run the same "
            "command on {host} too, and open the port in its firewall",
            endpoint=endpoint,
            minutes=JOIN_SECONDS // 60,
            host=endpoint.host,
        )
    )


def nodes_of(
    plan: Plan, here: ThisNode, result: MeetingResult, start: StartOptions
) -> SeveralNodes:
    """Return the nodes that met, as this node deals with them, and print its network settings.

    Raise ``InvalidRequestError`` if this node is none of them.
    """
    addresses = [node.address for node in result.nodes]
    if here.node.address not in addresses:
        raise InvalidRequestError(
            Phrase(
                "the run is on {addresses} and this node is {address}: restart one of those nodes",
                addresses=", ".join(addresses),
                address=here.node.address,
            )
        )
    peers = [
        Peer(here.run.nodes, node.name, node.address, leads=node.leads)
        for node in result.nodes
        if node.address != here.node.address
    ]
    nodes = SeveralNodes(
        plan,
        here,
        peers,
        max_restarts=start.max_restarts,
        shown_samples=start.shown_samples,
    )
    environment = environment_of(plan, nodes)
    say("network: " + " ".join(f"{name}={environment[name]}" for name in nodes.environment))
    return nodes


def members_file(run: RunDirectory) -> Path:
    """Return the file with the result of the first meeting, for a node that returns."""
    return run.nodes / "meeting.json"


@contextmanager
def last_word(heart: Heart) -> Iterator[None]:
    """Tell the other nodes what ends this launch, be it an error or a signal."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(SIGNALLED + number)

    before = {number: signal.signal(number, stop) for number in heeded_signals()}
    try:
        yield
    except UserError as error:
        heart.say("failed", code=error.exit_code, message=str(error))
        raise
    except SystemExit as error:
        code = int(error.code or 0)
        heart.say(
            "failed",
            code=code,
            message=Phrase("stopped by {signal}", signal=STOPPED.get(code, code)),
        )
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def dry_run_of(
    plan: Plan, directory: Path, endpoint: Endpoint, node: Node, start: StartOptions
) -> str:
    """Return what this node would do: its address, environment and command."""
    text = dry_run_text(
        plan,
        RunDirectory(directory, node.address),
        python=sys.executable,
        cores=num_cores(),
        rendezvous=rendezvous_of(node, endpoint, 1, plan.parallel.num_nodes),
        network=network_environment(node),
        max_restarts=start.max_restarts,
    )
    return Phrase(
        "node: {node}, {interface}{leads}\n{text}",
        node=node,
        interface=node.interface,
        leads=Phrase(", leads") if node.leads else "",
        text=text,
    )
