"""What ranks send each other while each computes a part of a layer, as bytes.

read: torch at 2.13, distributed/tensor/placement_types.py (Partial, Shard), _redistribute.py and
_api.py, and distributed/_functional_collectives.py: a sum over ranks is a new tensor, which all
hold, and a tensor that is put together along its last dimension is gathered first and then copied
into order. transformers at 5.23.0, distributed/tensor_parallel.py, hands modules whole tensors
between both.
"""

from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def summed(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return the sum of all ranks' tensors; its gradient is every rank's."""

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed()]

    tape.reduces(x.elements * x.width)
    return tape.record(
        tape.new(x.elements, x.width, f"{name}, summed over ranks"), (x,), (), backward
    )


def shared(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return a tensor that all ranks have, whose gradient is the sum of theirs."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        tape.reduces(elements * width)
        return [tape.new(elements, width, f"gradient of {name}, summed over ranks")]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (), backward)


def gathered(tape: Tape, x: Tensor, ranks: int, name: str) -> Tensor:
    """Return the parts of all ranks side by side; the gradient of each is a copy of its part."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, this rank's part")]

    tape.gathers(ranks * elements * width)
    _one_after_the_other = tape.new(ranks * elements, width, f"{name} of all ranks")
    whole = tape.new(ranks * elements, width, f"{name}, side by side")
    return tape.record(whole, (x,), (), backward)


def parted(tape: Tape, x: Tensor, ranks: int, name: str) -> Tensor:
    """Return a copy of this rank's part of each row; its gradient is those of all ranks' parts side
    by side."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        tape.gathers(elements * width)
        _one_after_the_other = tape.new(elements, width, f"gradients of {name} of all ranks")
        return [tape.new(elements, width, f"gradient of {name}, side by side")]

    part = tape.new(elements // ranks, width, f"{name}, this rank's part")
    return tape.record(part, (x,), (), backward)


def whole_rows(tape: Tape, x: Tensor, ranks: int, name: str) -> Tensor:
    """Return a matrix of which each rank has as many rows; every rank has its whole gradient, and
    copies its part of that."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, this rank's part")]

    tape.gathers(ranks * elements * width)
    return tape.record(
        tape.new(ranks * elements, width, f"{name} of all ranks"), (x,), (), backward
    )
