"""What a meeting's findings mean for the run: refusals, notes, the layout that all take. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.compat.torch_text import KEEP_ALIVE_ATTEMPTS, KEEP_ALIVE_SECONDS
from launcher.lifecycle.fallbacks import describe_layout, fallback_plans
from launcher.nodes.meeting_result import Met
from launcher.nodes.node_facts import Facts
from planner.hardware.network import networks
from planner.plan.schema import Plan

TOLD_SECONDS = 1.0
REFUSED_SECONDS = KEEP_ALIVE_SECONDS * (KEEP_ALIVE_ATTEMPTS - 1)
"""Clocks that are further apart: torch elastic compares them, and takes a node for dead that by
them has been silent for one interval more."""
WELL_BELOW = 0.5
"""Of the assumed bandwidth: less than this is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The same on every node."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def judge(met: Met, plan: Plan) -> Verdict:
    return Verdict(
        refusals=(*_refused(met), *_other_plans(met), *_unseen(met), *_versions(met), *_far(met)),
        notes=(*_own_notes(met), *_drivers(met), *_clocks(met), *_bandwidth(met, plan)),
    )


def common_layout(met: Met, plan: Plan) -> Plan:
    """The leanest that any node's memory asks for: all run the same. A run that goes on may be at
    a leaner one already than a node says."""
    layouts = [plan, *fallback_plans(plan)]
    words = [describe_layout(each) for each in layouts]
    asked = (words.index(node.layout) for node in met.nodes if node.layout in words)
    return layouts[max(asked, default=0)]


def _refused(met: Met) -> Iterator[str]:
    yield from (f"node {node}: {node.refusal}" for node in met.nodes if node.refusal)


def _other_plans(met: Met) -> Iterator[str]:
    others = [node for node in met.nodes if node.plan != met.leader.plan]
    if others:
        yield (
            f"{_listed(others)} has another plan than {met.leader}: give every node the same "
            "plan.yaml and the same options"
        )


def _unseen(met: Met) -> Iterator[str]:
    blind = [node for node, sees in zip(met.nodes, met.sees_folder, strict=True) if not sees]
    if blind:
        yield (
            f"{_listed(blind)} does not see the run directory of {met.leader}: put it on storage "
            "that all nodes share (--output DIR)"
        )


def _versions(met: Met) -> Iterator[str]:
    for name, wanted in met.leader.versions.items():
        others = [node for node in met.nodes if node.versions.get(name) != wanted]
        if others:
            found = others[0].versions.get(name) or "none"
            yield (
                f"{_listed(others)} has {name} {found}, and {met.leader} has {wanted or 'none'}: "
                "install the same on all"
            )


def _drivers(met: Met) -> Iterator[str]:
    for node in met.nodes:
        if (node.driver, node.cards) != (met.leader.driver, met.leader.cards):
            yield (
                f"note: node {node} has {_equipment(node)}, and {met.leader} has "
                f"{_equipment(met.leader)}"
            )


def _equipment(node: Facts) -> str:
    return node.cards if node.driver is None else f"{node.cards} under driver {node.driver}"


def _apart(met: Met) -> Iterator[tuple[Facts, float]]:
    """Seconds that a clock is certainly off the first node's, whichever way the message took."""
    for node, clock in zip(met.nodes, met.clocks, strict=True):
        yield node, max(abs(clock.offset_s) - clock.error_s, 0.0)


def _far(met: Met) -> Iterator[str]:
    for node, apart_s in _apart(met):
        if apart_s >= REFUSED_SECONDS:
            yield (
                f"the clock of node {node} is {apart_s:.0f} s off that of {met.nodes[0]}: torch "
                "elastic would take one of the two for dead. Set them by NTP (chronyc makestep)"
            )


def _clocks(met: Met) -> Iterator[str]:
    for node, apart_s in _apart(met):
        if TOLD_SECONDS <= apart_s < REFUSED_SECONDS:
            yield (
                f"note: the clock of node {node} is {apart_s:.1f} s off that of {met.nodes[0]}: "
                "set them by NTP, or logs and files of the nodes cannot be put in order"
            )


def _own_notes(met: Met) -> Iterator[str]:
    for node in met.nodes:
        yield from (f"{note} (node {node})" for note in node.notes)


def _bandwidth(met: Met, plan: Plan) -> Iterator[str]:
    name = plan.hardware.network
    if name is None and plan.hardware.device == "cpu":
        return  # no time was predicted
    planned = name or networks().reference
    assumed = assumed_bytes_per_s(planned, plan.parallel.gpus_per_node)
    measured = met.all_reduce_bytes_per_s
    if name is None:
        yield f"note: the plan names no network between its nodes, and {planned} was assumed"
    if measured < WELL_BELOW * assumed:
        slowest = met.slowest
        yield (
            f"note: an all-reduce moves {rate(measured)} past each node, and the plan counts on "
            f"{rate(assumed)} ({planned}): steps will take longer. The slowest link is "
            f"{met.nodes[slowest.sender]} -> {met.nodes[slowest.receiver]}, "
            f"{rate(slowest.bytes_per_s)}. "
            f"{_instead(measured, planned, plan.parallel.gpus_per_node)}"
        )


def assumed_bytes_per_s(network: str, gpus_per_node: int) -> float:
    """What the plan's times count on, past each node (planner/hardware/network.py, links_of)."""
    known = networks()
    adapters = known.networks[network].node_bytes_per_s(gpus_per_node)
    return adapters * known.collectives.network_share


def _instead(measured: float, planned: str, gpus_per_node: int) -> str:
    """The fastest network that is no faster than what was measured, else the slowest."""
    rates = {name: assumed_bytes_per_s(name, gpus_per_node) for name in networks().networks}
    slower = {name: each for name, each in rates.items() if each <= measured}
    name = (
        max(slower, key=lambda each: slower[each]) if slower else min(rates, key=lambda e: rates[e])
    )
    if name == planned:
        return "No slower network is known to plan: look at the link itself"
    return f"Look at the link, or plan for what there is: plan --network {name}"


def rate(bytes_per_s: float) -> str:
    """
    >>> rate(1_250_000_000), rate(11_900_000)
    ('1.25 GB/s', '11.9 MB/s')
    """
    unit, name = (1e9, "GB/s") if bytes_per_s >= 1e9 else (1e6, "MB/s")
    return f"{bytes_per_s / unit:.3g} {name}"


def _listed(nodes: Sequence[Facts]) -> str:
    return f"node {', '.join(map(str, nodes))}"
