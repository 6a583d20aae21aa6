"""What a load leaves: holes where matrices were whole."""

from planner.allocator.large_requests import Run, laid_out, reserved_bytes, runs_after
from planner.base.units import MIB
from planner.decision.choose import decide
from tests.planner.builders import cards, request


def test_runs_leave_the_holes_that_the_requests_left() -> None:
    requests = [("a", 30 * MIB), ("b", 5 * MIB), ("c", 10 * MIB), ("a", 0)]
    runs = runs_after(requests)
    assert runs == (Run(30 * MIB, False), Run(15 * MIB, True), Run(15 * MIB, False))
    again = [*laid_out("run", runs), ("d", 29 * MIB), ("e", 14 * MIB)]
    assert reserved_bytes(again) == reserved_bytes(requests) == 60 * MIB


def test_stacks_of_experts_find_no_room_between_packed_ones() -> None:
    """A simulated RTX 4090 counted 4,980 MiB (benchmarks/results/simulated.csv)."""
    asked = request(
        cards(1, 24),
        model="olmoe-1b-7b",
        method="qlora",
        sequence_length=512,
        micro_batch_size=1,
        activation_checkpointing=True,
    )
    assert abs(decide(asked).chosen.expected.reserved_bytes - 4_980 * MIB) < 0.03 * 4_980 * MIB
