"""The tape's laws: nothing is lost, nothing is counted twice, and what is held stays alive."""

import sys
from collections.abc import Callable
from functools import partial

import pytest

from planner.base.units import ALLOCATOR_BLOCK_BYTES
from planner.tape import operators as ops
from planner.tape import tensors
from planner.tape.tape import GradientSink, Tape
from planner.tape.tensors import Parameter, Tensor
from tests.oracle.ledgers import saved_since

SIZE = 1024


def alive(tape: Tape) -> int:
    return sum(num_bytes for num_bytes, *_ in tape.log)


def highest(tape: Tape) -> int:
    level = top = 0
    for num_bytes, *_ in tape.log:
        level += num_bytes
        top = max(top, level)
    return top


def chain(tape: Tape, x: Tensor, *, weights: list[Parameter]) -> Tensor:
    for weight in weights:
        x = ops.linear(tape, x, weight, out_features=SIZE, bias=None, name="linear")
    return x


def squares(count: int, *, trains: bool) -> list[Parameter]:
    return [Parameter(SIZE * SIZE, 4, trains=trains) for _ in range(count)]


def test_sizes_are_rounded_as_the_allocator_does() -> None:
    tape = Tape(sink="keep")
    tensor = tape.new(1, 4, "one number")
    assert alive(tape) == ALLOCATOR_BLOCK_BYTES
    del tensor
    assert alive(tape) == 0


def test_a_trained_chain_keeps_every_input_and_a_frozen_one_none() -> None:
    """``d(x W)/dW`` needs ``x``; ``d(x W)/dx`` needs ``W``, which is no activation."""
    for trains, kept in ((True, 3), (False, 0)):
        tape = Tape(sink="keep")
        x = tape.new(SIZE, 4, "input")
        x.node = Parameter(SIZE, 4, trains=True)
        output = chain(tape, x, weights=squares(3, trains=trains))
        assert len(saved_since(output, 0)) == kept


@pytest.mark.parametrize(("sink", "gradients"), [("keep", 2), ("add", 0), ("reduce", 0)])
def test_after_backward_only_kept_gradients_are_left(sink: GradientSink, gradients: int) -> None:
    tape = Tape(sink=sink)
    x = tape.new(SIZE, 4, "input")
    output = chain(tape, x, weights=squares(2, trains=True))
    del x
    tape.backward(output, tape.new(SIZE, 4, "gradient"))
    del output
    assert alive(tape) == gradients * SIZE * SIZE * 4
    assert sum(n for n, owner, _, _ in tape.log if owner == "gradients") == alive(tape)


def test_what_the_caller_holds_stays_alive() -> None:
    """Logits that a training loop names live through backward."""
    tape = Tape(sink="reduce")
    output = chain(tape, tape.new(SIZE, 4, "input"), weights=squares(1, trains=True))
    tape.backward(output, tape.new(SIZE, 4, "gradient"))
    assert alive(tape) == output.elements * output.width


def test_a_region_is_run_again_and_costs_less_than_it_saves() -> None:
    tops = []
    for checkpointed in (False, True):
        tape = Tape(sink="reduce")
        x = tape.new(SIZE, 4, "input")
        x.node = Parameter(SIZE, 4, trains=True, gradient_owner="activations")
        regions = [squares(8, trains=True) for _ in range(8)]
        for weights in regions:
            region = partial(chain, tape, weights=weights)
            x = tape.checkpoint(region, x) if checkpointed else region(x)
        forward_end = alive(tape)
        output = x
        del x
        tape.backward(output, tape.new(SIZE, 4, "gradient"))
        del output
        tape.leaf_gradients.clear()
        assert alive(tape) == 0
        tops.append((forward_end, highest(tape) - SIZE * SIZE * 4))
    kept, recomputed = tops
    assert kept[0] == (64 + 1) * SIZE * 4
    assert recomputed[0] == (8 + 1) * SIZE * 4
    assert recomputed[1] < kept[1]


def test_gradients_of_two_consumers_are_summed() -> None:
    """In place once the branch has let go of the gradient that both were given."""
    tape = Tape(sink="reduce")
    x = tape.new(SIZE, 4, "input")
    x.node = Parameter(SIZE, 4, trains=True)
    x = ops.unary(tape, x, "activation", saves="input")
    output = ops.add(tape, x, ops.unary(tape, x, "branch"), "residual")
    del x
    before = alive(tape)
    tape.backward(output, tape.new(SIZE, 4, "gradient"))
    del output
    assert alive(tape) == 0
    assert highest(tape) == before + 2 * SIZE * 4


def scaled_and_shifted(tape: Tape) -> Tensor:
    """``x * scale + shift``, both of the input's shape: the two gradients are one storage."""
    x = tape.new(SIZE, 4, "input")
    x = ops.mul(tape, x, Parameter(SIZE, 4, trains=True), "product")
    return ops.add(tape, x, Parameter(SIZE, 4, trains=True), "sum")


def scaled(tape: Tape) -> Tensor:
    """``x * scale``: nothing but the parameter waits for its gradient."""
    return ops.mul(tape, tape.new(SIZE, 4, "input"), Parameter(SIZE, 4, trains=True), "product")


@pytest.mark.parametrize("counted_besides", [-1, 0, 1, 2])
@pytest.mark.parametrize(("run", "peak", "kept"), [(scaled_and_shifted, 5, 2), (scaled, 4, 1)])
def test_an_interpreter_may_count_references_as_it_likes(
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[[Tape], Tensor],
    peak: int,
    kept: int,
    counted_besides: int,
) -> None:
    """A gradient is copied where another one is the same storage, and kept as it is elsewhere.

    CPython 3.14 counts one reference fewer than 3.13 where a variable is an argument.
    """
    monkeypatch.setattr(tensors, "getrefcount", lambda x: sys.getrefcount(x) + counted_besides)
    tape = Tape(sink="keep")
    output = run(tape)
    tape.backward(output, tape.new(SIZE, 4, "gradient"))
    assert highest(tape) == peak * SIZE * 4
    assert alive(tape) == (kept + 1) * SIZE * 4
