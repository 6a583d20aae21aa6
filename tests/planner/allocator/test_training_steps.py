"""Allocations of whole training steps: what comes where, in the order of PyTorch's."""

from planner.allocator.replay import Allocate, AllocatorEvent, Free
from planner.allocator.training_steps import training_events
from planner.memory.workspaces import LARGE_CUBLAS_WORKSPACE_BYTES
from planner.search.repredict import layout_of, workload_of
from planner.workload.dtypes import numerics_of
from planner.workload.workload import Batch
from tests.launcher.planned import SHAPE, planned

ROWS, LENGTH = 2, 512
HIDDEN_BYTES = ROWS * LENGTH * SHAPE["hidden_size"] * 2
"""Bytes of hidden states in 16 bit."""
LOGITS_BYTES = ROWS * LENGTH * SHAPE["vocab_size"] * 2
"""Bytes of the logits in 16 bit, and of their gradient."""


def events_of(loss: str) -> list[AllocatorEvent]:
    plan = planned(name="llama-3.2-1b", method="lora", loss=loss, micro_batch_size=ROWS)
    workload, layout = workload_of(plan), layout_of(plan)
    batch = Batch(
        micro_batch_size=ROWS,
        sequence_length=LENGTH,
        masked=True,
        device="cuda",
        compute_capability="9.0",
    )
    return training_events(workload, layout, batch, numerics_of(workload, layout))


def place_of(events: list[AllocatorEvent], number: int) -> int:
    return events.index(Allocate(("workspace", number), LARGE_CUBLAS_WORKSPACE_BYTES))


def held_before(events: list[AllocatorEvent], place: int) -> list[int]:
    held: dict[object, int] = {}
    for event in events[:place]:
        if isinstance(event, Free):
            del held[event.key]
        else:
            held[event.key] = event.num_bytes
    return list(held.values())


def test_forwards_workspace_follows_the_output_of_the_first_product() -> None:
    events = events_of("standard")
    before = events[place_of(events, 0) - 1]
    assert isinstance(before, Allocate)
    assert before.num_bytes == HIDDEN_BYTES  # q_proj's output


def test_autograds_workspace_is_made_while_the_gradient_of_the_logits_is_alive() -> None:
    events = events_of("standard")
    place = place_of(events, 1)
    before = events[place - 1]
    assert isinstance(before, Allocate)
    assert before.num_bytes == HIDDEN_BYTES  # the gradient of the head's input
    assert LOGITS_BYTES in held_before(events, place)


def test_each_thread_has_one_workspace() -> None:
    events = events_of("fused")
    keys = [event.key for event in events if isinstance(event, Allocate)]
    workspaces = [key for key in keys if isinstance(key, tuple) and key[0] == "workspace"]
    assert workspaces == [("workspace", 0), ("workspace", 1)]
