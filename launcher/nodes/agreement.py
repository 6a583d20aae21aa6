"""What the result of a meeting means for a run: refusals, notes, and the common layout. No side
effects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.compat.torch_text import KEEP_ALIVE_ATTEMPTS, KEEP_ALIVE_SECONDS
from launcher.lifecycle.fallbacks import describe_layout, fallback_plans
from launcher.nodes.meeting_result import MeetingResult
from launcher.nodes.node_facts import NodeFacts
from planner.base.phrases import Phrase
from planner.hardware.network import GIGA, network_named, networks
from planner.plan.schema import Plan

NOTED_SECONDS = 1.0
"""Difference of two clocks, in seconds, from which a note is shown."""
REFUSED_SECONDS = KEEP_ALIVE_SECONDS * (KEEP_ALIVE_ATTEMPTS - 1)
"""Difference of two clocks from which a run is refused: torch elastic compares clocks, and takes a
node for dead that has been silent for one interval more by them."""
WELL_BELOW = 0.5
"""Share of the assumed bandwidth below which a note is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What every node concludes from the same result of a meeting."""

    refusals: tuple[str, ...]
    """Sentences that say why the run cannot begin."""
    notes: tuple[str, ...]
    """Sentences that a person should know."""


def agreement_on(result: MeetingResult, plan: Plan) -> Agreement:
    """Return the refusals and notes that follow from a meeting's result."""
    return Agreement(
        refusals=(
            *_refusals_of_nodes(result),
            *_different_plans(result),
            *_unshared_folders(result),
            *_different_versions(result),
            *_distant_clocks(result),
        ),
        notes=(
            *_notes_of_nodes(result),
            *_different_equipment(result),
            *_differing_clocks(result),
            *_slow_network(result, plan),
        ),
    )


def common_layout(result: MeetingResult, plan: Plan) -> Plan:
    """Return the plan in the leanest layout that a node's memory needs: all nodes run the same.

    The plan of a resumed run may already be in a leaner layout than a node asks for.
    """
    layouts = [plan, *fallback_plans(plan)]
    descriptions = [describe_layout(layout) for layout in layouts]
    needed = (descriptions.index(n.layout) for n in result.nodes if n.layout in descriptions)
    return layouts[max(needed, default=0)]


def _refusals_of_nodes(result: MeetingResult) -> Iterator[str]:
    yield from (
        Phrase("node {node}: {refusal}", node=node, refusal=node.refusal)
        for node in result.nodes
        if node.refusal
    )


def _different_plans(result: MeetingResult) -> Iterator[str]:
    different = [node for node in result.nodes if node.plan != result.leader.plan]
    if different:
        yield Phrase(
            "{listed} has another plan than {leader}: give every node the same plan.yaml "
            "and the same options",
            listed=_listed(different),
            leader=result.leader,
        )


def _unshared_folders(result: MeetingResult) -> Iterator[str]:
    blind = [node for node, sees in zip(result.nodes, result.sees_folder, strict=True) if not sees]
    if blind:
        yield Phrase(
            "{listed} does not see the run directory of {leader}: put it on storage that "
            "all nodes share (--output DIR)",
            listed=_listed(blind),
            leader=result.leader,
        )


def _different_versions(result: MeetingResult) -> Iterator[str]:
    for name, version in result.leader.versions.items():
        different = [node for node in result.nodes if node.versions.get(name) != version]
        if different:
            yield Phrase(
                "{listed} has {name} {found} and {leader} has {version}: install the same "
                "version on all nodes",
                listed=_listed(different),
                name=name,
                found=different[0].versions.get(name) or "none",
                leader=result.leader,
                version=version or "none",
            )


def _different_equipment(result: MeetingResult) -> Iterator[str]:
    for node in result.nodes:
        if (node.driver, node.cards) != (result.leader.driver, result.leader.cards):
            yield Phrase(
                "note: node {node} has {equipment} and {leader} has {other}",
                node=node,
                equipment=_equipment(node),
                leader=result.leader,
                other=_equipment(result.leader),
            )


def _equipment(node: NodeFacts) -> str:
    return (
        node.cards
        if node.driver is None
        else Phrase("{cards} with driver {driver}", cards=node.cards, driver=node.driver)
    )


def _least_clock_differences_s(result: MeetingResult) -> Iterator[tuple[NodeFacts, float]]:
    """Give every node with the least difference of its clock from the first node's, in seconds."""
    for node, clock in zip(result.nodes, result.clocks, strict=True):
        yield node, max(abs(clock.offset_s) - clock.error_s, 0.0)


def _distant_clocks(result: MeetingResult) -> Iterator[str]:
    for node, difference_s in _least_clock_differences_s(result):
        if difference_s >= REFUSED_SECONDS:
            yield Phrase(
                "the clock of node {node} is {difference_s:.0f} s off that of {first}: torch "
                "elastic would treat one of the two as dead. Set both by NTP (chronyc "
                "makestep)",
                node=node,
                difference_s=difference_s,
                first=result.nodes[0],
            )


def _differing_clocks(result: MeetingResult) -> Iterator[str]:
    for node, difference_s in _least_clock_differences_s(result):
        if NOTED_SECONDS <= difference_s < REFUSED_SECONDS:
            yield Phrase(
                "note: the clock of node {node} is {difference_s:.1f} s off that of {first}: "
                "set both by NTP, or the nodes' logs cannot be put in order",
                node=node,
                difference_s=difference_s,
                first=result.nodes[0],
            )


def _notes_of_nodes(result: MeetingResult) -> Iterator[str]:
    for node in result.nodes:
        yield from (Phrase("{note} (node {node})", note=note, node=node) for note in node.notes)


def _slow_network(result: MeetingResult, plan: Plan) -> Iterator[str]:
    name = plan.hardware.network
    if name is None and plan.hardware.device == "cpu":
        return  # no time was predicted
    planned = name or networks().reference
    assumed = assumed_bytes_per_s(planned, plan.parallel.gpus_per_node)
    measured = result.all_reduce_bytes_per_s
    if name is None:
        yield Phrase(
            "note: the plan names no network between its nodes, and {planned} was assumed",
            planned=planned,
        )
    if measured < WELL_BELOW * assumed:
        slowest = result.slowest
        yield Phrase(
            "note: an all-reduce moves {rate} per node instead of the {assumed} that the "
            "plan assumes ({planned}), so steps will take longer. The slowest link is "
            "{sender} -> {receiver}, {slowest}. Check the link, or plan for this speed: "
            "plan --network {speed}",
            rate=rate(measured),
            assumed=rate(assumed),
            planned=planned,
            sender=result.nodes[slowest.sender],
            receiver=result.nodes[slowest.receiver],
            slowest=rate(slowest.bytes_per_s),
            speed=named_rate(measured),
        )


def assumed_bytes_per_s(network: str, gpus_per_node: int) -> float:
    """Return what the plan's times assume to pass a node in one direction, as ``links_of`` does.

    read: planner/hardware/network.py.
    """
    adapters = network_named(network).node_bytes_per_s(gpus_per_node)
    return adapters * networks().collectives.network_share


def named_rate(measured_bytes_per_s: float) -> str:
    """Return the network whose all-reduce a plan assumes to be as fast as the measured one.

    >>> named_rate(11_900_000), named_rate(24_000_000_000)
    ('0.0124GB/s', '25GB/s')
    """
    nominal = measured_bytes_per_s / networks().collectives.network_share
    return f"{float(f'{nominal / GIGA:.3g}'):.6f}".rstrip("0").rstrip(".") + "GB/s"


def rate(bytes_per_s: float) -> str:
    """Return a rate in words.

    >>> rate(1_250_000_000), rate(11_900_000)
    ('1.25 GB/s', '11.9 MB/s')
    """
    unit, name = (1e9, "GB/s") if bytes_per_s >= 1e9 else (1e6, "MB/s")
    return f"{bytes_per_s / unit:.3g} {name}"


def _listed(nodes: Sequence[NodeFacts]) -> str:
    return Phrase("node {names}", names=", ".join(map(str, nodes)))
