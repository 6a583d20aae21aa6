"""``launch plan.yaml --rdzv-endpoint HOST``, the same on each of a run's nodes."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.data.inputs import inputs_before
from launcher.faults.outcome import Outcome, say, show_result, show_training_failure
from launcher.lifecycle.begin import StartOptions, begin, has_finished, tell
from launcher.lifecycle.dry_run import dry_run_text
from launcher.lifecycle.execution import environment_of, execute, prepare, train_once
from launcher.lifecycle.preflight import needed_disk_bytes
from launcher.lifecycle.record import write_record
from launcher.nodes.agreement import common_layout
from launcher.nodes.first_meeting import convene
from launcher.nodes.heartbeat import Heart, Peer
from launcher.nodes.meeting_result import Met, read_met, write_met
from launcher.nodes.node_facts import facts_of
from launcher.nodes.node_identity import (
    Endpoint,
    Node,
    endpoint_of,
    leader_address,
    network_environment,
    node_at,
)
from launcher.nodes.peers import Here, SeveralNodes, rendezvous_of
from launcher.nodes.reachability import answers, listens
from launcher.run.process import LOOK_SECONDS, SIGNALLED, STOP_SIGNALS, STOPPED
from launcher.run.rank_commands import JOIN_SECONDS, num_cores
from launcher.run.run_directory import RunDirectory, check_may_run_in, create, locked
from planner.base.errors import InvalidRequestError, UserError
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


def require_endpoint(plan: Plan, given: str | None) -> Endpoint:
    if given is None:
        raise InvalidRequestError(
            f"the plan is for {plan.parallel.num_nodes} nodes, and nothing says where they meet. "
            "Type the same command on each with --rdzv-endpoint HOST, one of them, or let an "
            "engine do that (--on, see launch --help)"
        )
    return endpoint_of(given)


def launch_node(
    plan: Plan, directory: Path, endpoint: Endpoint, start: StartOptions, *, dry_run: bool
) -> int:
    """This node's part of the run; an exit code."""
    node = node_at(endpoint)
    if dry_run:
        print(dry_run_of(plan, directory, endpoint, node, start), end="")
        return 0
    if has_finished(directory, start):
        return 0
    check_may_run_in(directory)
    resumes = start.resumes(RunDirectory(directory))
    run = create(directory, needed_bytes=needed_disk_bytes(plan), node=node.address)
    heart = Heart(run.nodes, node, lambda: node.leads or answers(endpoint))
    here = Here(node=node, endpoint=endpoint, run=run, heart=heart)
    with locked(run), heart, last_word(heart):
        if node.leads:
            return lead(plan, here, start, resumes=resumes)
        return follow(plan, here, start, resumes=resumes)


def lead(plan: Plan, here: Here, start: StartOptions, *, resumes: bool) -> int:
    refusal, saved, lines, running = None, None, list[str](), plan
    try:
        running, saved, lines = begin(plan, here.run, resumes=resumes)
    except UserError as error:
        refusal = str(error)
    say(f"waiting at {here.endpoint} for {plan.parallel.num_nodes - 1} more")
    met = convene(plan, here, facts_of(plan, here.node, resumes=resumes, refusal=refusal))
    tell(lines)
    write_met(members_file(here.run), met)
    nodes = nodes_of(plan, here, met, start)
    code = execute(common_layout(met, running), here.run, saved, nodes)
    if start.record and code == 0:
        print(f"recorded: {write_record(here.run)}")
    return code


def follow(plan: Plan, here: Here, start: StartOptions, *, resumes: bool) -> int:
    leader = Peer(here.run.nodes, here.endpoint.host, leader_address(here.endpoint), leads=True)
    came_back = await_leader(here.endpoint, leader)
    if came_back:
        say(f"node {leader} trains already: this node joins again")
        met = read_met(members_file(here.run))
    else:
        met = convene(plan, here, facts_of(plan, here.node, resumes=resumes))
    nodes = nodes_of(plan, here, met, start)
    ended = follow_leader(here, nodes, keeps_inputs=came_back or resumes)
    nodes.announce_end(ended)
    return ended.code


def follow_leader(here: Here, nodes: SeveralNodes, *, keeps_inputs: bool) -> Outcome:
    """What it announces, one attempt after another."""
    if nodes.next_word("preparing", "training") is None:
        return taken_down(nodes)
    plan = read_spec(Plan, here.run.plan)
    environment = environment_of(plan, nodes)
    inputs = inputs_before(here.run) if keeps_inputs else None
    if inputs is None or not inputs.are_there:
        nodes.announce_preparation()
        ended = prepare(here.run, environment, nodes)
        if ended.code != 0:
            return ended
    nodes.is_ready()
    ended = Outcome(code=0)
    while (word := nodes.next_word("training", "done")) is not None and word.state != "done":
        nodes.attempt = word.attempt
        plan = read_spec(Plan, here.run.plan)
        ended = train_once(plan, here.run, environment, None, nodes)
        if ended.code != 0:
            show_training_failure(here.run, ended)
    if word is None:
        return ended if ended.code != 0 else taken_down(nodes)
    if nodes.shows_result(here.run):
        show_result(plan, here.run)
    return Outcome(code=0)


def taken_down(nodes: SeveralNodes) -> Outcome:
    assert nodes.peer_failure is not None
    say(f"error: {nodes.peer_failure.reason}")
    return Outcome(code=nodes.peer_failure.code, peer_failure=nodes.peer_failure)


def await_leader(endpoint: Endpoint, leader: Peer) -> bool:
    """Whether the run is under way, and this node comes back to it; else the first meeting is."""
    say(f"waiting for {endpoint}")
    end = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < end:
        leader.listen()
        if leader.heard and leader.beat.state in ("failed", "done"):
            raise InvalidRequestError(f"node {leader} has ended the run: {leader.beat.message}")
        if leader.heard and leader.beat.state != "meeting":
            return True
        if listens(endpoint):
            return False
        time.sleep(LOOK_SECONDS)
    raise InvalidRequestError(
        f"nothing listens at {endpoint} for {JOIN_SECONDS // 60} min: type the same command on "
        f"{endpoint.host} too, and let its firewall pass the port"
    )


def nodes_of(plan: Plan, here: Here, met: Met, start: StartOptions) -> SeveralNodes:
    addresses = [node.address for node in met.nodes]
    if here.node.address not in addresses:
        raise InvalidRequestError(
            f"the run goes on with {', '.join(addresses)}, and this node is "
            f"{here.node.address}: start one of those again"
        )
    peers = [
        Peer(here.run.nodes, node.name, node.address, leads=node.leads)
        for node in met.nodes
        if node.address != here.node.address
    ]
    nodes = SeveralNodes(plan, here, peers, max_restarts=start.max_restarts)
    set_here = environment_of(plan, nodes)
    say("network: " + " ".join(f"{name}={set_here[name]}" for name in nodes.environment))
    return nodes


def members_file(run: RunDirectory) -> Path:
    """Who takes part, for one that comes back."""
    return run.nodes / "met.json"


@contextmanager
def last_word(heart: Heart) -> Iterator[None]:
    """Whatever ends this launch is told to the other nodes, a signal too."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(SIGNALLED + number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    except UserError as error:
        heart.say("failed", code=error.exit_code, message=str(error))
        raise
    except SystemExit as error:
        code = int(error.code or 0)
        heart.say("failed", code=code, message=f"stopped by {STOPPED.get(code, code)}")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def dry_run_of(
    plan: Plan, directory: Path, endpoint: Endpoint, node: Node, start: StartOptions
) -> str:
    text = dry_run_text(
        plan,
        RunDirectory(directory, node.address),
        python=sys.executable,
        cores=num_cores(),
        rendezvous=rendezvous_of(node, endpoint, 1, plan.parallel.num_nodes),
        network=network_environment(node),
        max_restarts=start.max_restarts,
    )
    return f"node: {node}, {node.interface}{', leads' if node.leads else ''}\n{text}"
