"""What nodes find out about each other, and what of it lets a run begin."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from msgspec import structs
from rich.console import Console

from launcher.lifecycle.fallbacks import describe_layout, fallback_plans
from launcher.nodes.agreement import Agreement, agreement_on, common_layout, rate
from launcher.nodes.link_speed import rounds
from launcher.nodes.meeting_result import Clock, Link, MeetingResult, read_result, write_result
from launcher.nodes.node_facts import NodeFacts, plan_key
from launcher.nodes.table import nodes_table
from planner.plan.schema import Plan
from tests.launcher.plans import parallel, plan

LEANER = {
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "activation_checkpointing": True,
    "strategy": "ddp",
    "peak_allocated_bytes": 30 * 2**20,
}


def planned(network: str | None = "25gbe") -> Plan:
    two = parallel("ddp") | {"num_nodes": 2, "gpus_per_node": 1}
    return plan(
        parallel=two,
        batch__gradient_accumulation_steps=1,
        hardware__device="cuda",
        hardware__network=network,
        fallbacks=[LEANER],
    )


def facts(number: int, **changes: object) -> NodeFacts:
    content = {
        "name": f"n{number}",
        "address": f"10.0.0.{number}",
        "interface": "eth0",
        "leads": number == 1,
        "cards": "1 x H100",
        "driver": "570.1",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "plan": plan_key(planned()),
        "layout": describe_layout(planned()),
        "notes": [],
        "refusal": None,
    }
    return NodeFacts(**{**content, **changes})  # type: ignore[arg-type]


def meeting(second: NodeFacts | None = None, **changes: object) -> MeetingResult:
    """Two nodes that agree in everything, over 25 Gbit/s."""
    whole = MeetingResult(
        nodes=[facts(1), second or facts(2)],
        sees_folder=[True, True],
        clocks=[Clock(offset_s=0.0, error_s=0.0), Clock(offset_s=0.01, error_s=0.001)],
        all_reduce_bytes_per_s=2.5e9,
        links=[
            Link(sender=0, receiver=1, bytes_per_s=2.6e9),
            Link(sender=1, receiver=0, bytes_per_s=2.4e9),
        ],
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_nodes_that_agree() -> None:
    assert agreement_on(meeting(), planned()) == Agreement(refusals=(), notes=())


@pytest.mark.parametrize(
    ("found", "refusal"),
    [
        (
            meeting(facts(2, refusal="the plan needs trl: pip install trl")),
            "node n2 (10.0.0.2): the plan needs trl: pip install trl",
        ),
        (
            meeting(facts(2, versions={"python": "3.11.2", "torch": "2.12.0"})),
            "node n2 (10.0.0.2) has torch 2.12.0 and n1 (10.0.0.1) has 2.13.0: install the same "
            "version on all nodes",
        ),
        (
            meeting(facts(2, plan="another")),
            "node n2 (10.0.0.2) has another plan than n1 (10.0.0.1): give every node the same "
            "plan.yaml and the same options",
        ),
        (
            meeting(sees_folder=[True, False]),
            "node n2 (10.0.0.2) does not see the run directory of n1 (10.0.0.1): put it on storage "
            "that all nodes share (--output DIR)",
        ),
        (
            meeting(clocks=[Clock(offset_s=0, error_s=0), Clock(offset_s=-60, error_s=0.1)]),
            "the clock of node n2 (10.0.0.2) is 60 s off that of n1 (10.0.0.1): torch elastic "
            "would treat one of the two as dead. Set both by NTP (chronyc makestep)",
        ),
    ],
    ids=["a node's own", "versions", "plans", "storage", "clocks"],
)
def test_what_refuses_a_run(found: MeetingResult, refusal: str) -> None:
    assert agreement_on(found, planned()).refusals == (refusal,)


@pytest.mark.parametrize(
    ("offset_s", "error_s", "told"), [(2.0, 0.5, True), (2.0, 1.5, False), (-1.2, 0.0, True)]
)
def test_clocks_that_differ_beyond_what_the_round_trip_explains(
    offset_s: float, error_s: float, told: bool
) -> None:
    clocks = [Clock(offset_s=0, error_s=0), Clock(offset_s=offset_s, error_s=error_s)]
    notes = agreement_on(meeting(clocks=clocks), planned()).notes
    assert [note.startswith("note: the clock of node n2") for note in notes] == [True] * told


def test_a_link_well_below_what_the_plan_counts_on() -> None:
    links = [
        Link(sender=0, receiver=1, bytes_per_s=2.6e9),
        Link(sender=1, receiver=0, bytes_per_s=1.3e9),
    ]
    slow = meeting(all_reduce_bytes_per_s=1.25e9, links=links)
    assert agreement_on(slow, planned()).notes == (
        "note: an all-reduce moves 1.25 GB/s per node instead of the 3 GB/s that the plan assumes "
        "(25gbe), so steps will take longer. The slowest link is n2 (10.0.0.2) -> n1 (10.0.0.1), "
        "1.3 GB/s. Check the link, or plan for this speed: plan --network 1.3GB/s",
    )


def test_a_network_that_the_plan_does_not_name() -> None:
    notes = agreement_on(meeting(all_reduce_bytes_per_s=11e9), planned(None)).notes
    assert notes == ("note: the plan names no network between its nodes, and 100gbe was assumed",)


def test_another_driver_is_said() -> None:
    notes = agreement_on(meeting(facts(2, driver="535.2")), planned()).notes
    assert notes == (
        "note: node n2 (10.0.0.2) has 1 x H100 with driver 535.2 and n1 (10.0.0.1) has "
        "1 x H100 with driver 570.1",
    )


def test_all_take_the_layout_of_the_node_with_the_least_memory() -> None:
    (leaner,) = fallback_plans(planned())
    assert common_layout(meeting(), planned()) == planned()
    assert common_layout(meeting(facts(2, layout=describe_layout(leaner))), planned()) == leaner
    assert common_layout(meeting(), leaner) == leaner, "where an earlier launch had to go"


def test_the_run_directory_may_be_mounted_in_two_places() -> None:
    moved = structs.replace(
        planned(), output=structs.replace(planned().output, directory="/mnt/runs")
    )
    assert plan_key(moved) == plan_key(planned())


def test_what_was_found_is_kept(tmp_path: Path) -> None:
    write_result(tmp_path / "meeting.json", meeting())
    assert asdict(read_result(tmp_path / "meeting.json")) == asdict(meeting())


def test_the_table() -> None:
    console = Console(width=120, no_color=True)
    with console.capture() as drawn:
        console.print(nodes_table(meeting()))
    text = " ".join(drawn.get().split())
    assert "2 nodes, all-reduce 2.5 GB/s" in text
    assert "n1 (leads) 10.0.0.1 eth0 1 x H100 570.1 - 2.6 GB/s" in text
    assert "n2 10.0.0.2 eth0 1 x H100 570.1 +0.010 s 2.4 GB/s" in text


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_every_link_of_the_ring_is_measured_and_no_node_twice_at_a_time(count: int) -> None:
    for pairs in rounds(count):
        ends = [end for pair in pairs for end in pair]
        assert len(ends) == len(set(ends))
    found = {frozenset(pair) for pairs in rounds(count) for pair in pairs}
    assert found == {frozenset((n, (n + 1) % count)) for n in range(count)}


def test_rates_as_people_read_them() -> None:
    assert [rate(1_250_000_000), rate(11_930_000)] == ["1.25 GB/s", "11.9 MB/s"]
