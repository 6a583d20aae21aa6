"""``launch plan.yaml --rdzv-endpoint HOST``, the same on each of a run's nodes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from launcher.beginning import Wanted, begun, tell
from launcher.command import JOIN_SECONDS, num_cores
from launcher.dry_run import dry_run_text
from launcher.ending import show_preparation_failure, show_training_failure
from launcher.execution import environment_of, execute, prepare, train_once
from launcher.nodes.company import Nodes, rendezvous_of
from launcher.nodes.heartbeat import Beat, Heart, Peer
from launcher.nodes.place import Endpoint, Node, endpoint_of, leader_address, node_at
from launcher.nodes.reach import answers, wait_until_listening
from launcher.nodes.settings import network_environment
from launcher.preflight import needed_disk_bytes
from launcher.run_directory import RunDirectory, check_may_run_in, create, locked
from planner.errors import InvalidRequestError
from planner.plan import Plan
from planner.spec import read_spec

LOOK_SECONDS = 0.5


def require_endpoint(plan: Plan, given: str | None) -> Endpoint:
    if given is None:
        raise InvalidRequestError(
            f"the plan is for {plan.parallel.num_nodes} nodes, and nothing says where they meet. "
            "Type the same command on each with --rdzv-endpoint HOST, one of them, or let an "
            "engine do that: --on hosts|slurm|skypilot|kubeflow"
        )
    return endpoint_of(given)


def launch_node(
    plan: Plan, directory: Path, endpoint: Endpoint, wanted: Wanted, *, dry_run: bool
) -> int:
    """This node's part of the run; an exit code."""
    node = node_at(endpoint)
    if dry_run:
        print(node_dry_run(plan, directory, endpoint, node, wanted), end="")
        return 0
    check_may_run_in(directory)
    run = create(directory, needed_bytes=needed_disk_bytes(plan), node=node.address)
    with (
        locked(run),
        Heart(run.nodes, node, lambda: node.leads or answers(endpoint)) as heart,
    ):
        nodes = Nodes(plan, node, endpoint, heart, max_restarts=wanted.max_restarts)
        if node.leads:
            return lead(plan, run, nodes, wanted)
        return follow(run, nodes, endpoint)


def lead(plan: Plan, run: RunDirectory, nodes: Nodes, wanted: Wanted) -> int:
    plan, saved, lines = begun(plan, run, goes_on=wanted.goes_on(run))
    tell(lines)
    code = execute(plan, run, saved, nodes)
    nodes.heart.say("done" if code == 0 else "failed", code=code)
    return code


def follow(run: RunDirectory, nodes: Nodes, endpoint: Endpoint) -> int:
    """What the leader announces, one attempt after another."""
    leader = Peer(run.nodes, endpoint.host, leader_address(endpoint))
    beat = wait_for(leader, lambda beat: beat.state not in ("meeting", "over"))
    plan = read_spec(Plan, run.plan)
    environment = environment_of(plan, nodes)
    nodes.prepares()
    code = prepare(run, environment, nodes)
    if code != 0:
        show_preparation_failure(run, code)
        return code
    while True:
        beat = wait_for(leader, lambda beat: has_ended(beat) or beat.attempt > nodes.attempt)
        if has_ended(beat):
            return beat.code or 0
        nodes.attempt = beat.attempt
        plan = read_spec(Plan, run.plan)
        wait_until_listening(endpoint.after(nodes.attempt), JOIN_SECONDS, nodes.look)
        ended = train_once(plan, run, environment, None, nodes)
        nodes.heart.say("over", attempt=nodes.attempt, code=ended.code)
        if ended.code != 0:
            show_training_failure(run, ended)


def has_ended(beat: Beat) -> bool:
    return beat.state in ("failed", "done")


def wait_for(leader: Peer, heard: Callable[[Beat], bool]) -> Beat:
    leader.listen()
    while not (leader.heard and heard(leader.beat)):
        time.sleep(LOOK_SECONDS)
        leader.listen()
    return leader.beat


def node_dry_run(
    plan: Plan, directory: Path, endpoint: Endpoint, node: Node, wanted: Wanted
) -> str:
    return f"node: {node}, {node.interface}{', leads' if node.leads else ''}\n" + dry_run_text(
        plan,
        RunDirectory(directory, node.address),
        python=sys.executable,
        cores=num_cores(),
        rendezvous=rendezvous_of(node, endpoint, 1, plan.parallel.num_nodes),
        network=network_environment(node),
        max_restarts=wanted.max_restarts,
    )
