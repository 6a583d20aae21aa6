"""Operators of layers that keep a state, as bytes: what each makes, saves, and gives back.

read: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp at 2.13.
"""

from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def convolved(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None, elements: int) -> Tensor:
    """Return a convolution over time, each channel by itself: input and weight are saved,
    whichever needs a gradient."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    sizes = [(each.elements, each.width, each.node is not None) for each in inputs]
    names = ("input", "weight", "bias")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [
            tape.new(size, width, f"gradient of the convolution's {name}") if need else None
            for (size, width, need), name in zip(sizes, names, strict=False)
        ]

    output = tape.new(elements, x.width, "convolution")
    return tape.record(output, inputs, (x, weight), backward)


def padded(tape: Tape, x: Tensor, elements: int, name: str) -> Tensor:
    """Return ``F.pad``, which copies where there is nothing to pad, too."""
    before, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(before, width, f"gradient of {name}")]

    return tape.record(tape.new(elements, width, name), (x,), (), backward)


def cumulative_sum(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return ``x.cumsum``, whose gradient is ``grad.flip().cumsum().flip()``."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        _inside = [tape.new(elements, width, f"gradient of {name}, turned") for _ in range(2)]
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(tape.new(elements, width, name), (x,), (), backward)


def outer(tape: Tape, a: Tensor, b: Tensor, elements: int, name: str) -> Tensor:
    """Return ``a * b``, both broadcast to so many elements: each is saved for the other's
    gradient."""
    width, needed = max(a.width, b.width), (a.node is not None, b.node is not None)
    saved = (*((b,) if needed[0] else ()), *((a,) if needed[1] else ()))

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}") if n else None for n in needed]

    return tape.record(tape.new(elements, width, name), (a, b), saved, backward)


def of_token(tape: Tape, x: Tensor, elements: int) -> Tensor:
    """Return the part of one token, a view: its gradient is as large as all tokens', and is added
    to that of the tokens after it."""
    whole, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        gradient = tape.new(whole, width, "gradient of a token's part")
        tape.passes_over(3 * whole * width)
        return [gradient]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (), backward)


def holding(tape: Tape, x: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    """Return ``x``, which holds what steps before it have saved until its own gradient comes."""

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed()]

    return tape.record(Tensor(x.elements, x.width, x.storage, None), (x,), others, backward)


def solved(tape: Tape, matrices: Tensor, sides: Tensor, name: str, *, rows: int) -> Tensor:
    """Return ``torch.linalg.solve_triangular`` of matrices with so many rows: they and the solution
    are saved."""
    elements, width, whole = sides.elements, sides.width, matrices.elements
    work = elements * rows, width * (whole + 2 * elements), width
    needs_matrices = matrices.node is not None

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        tape.multiplies(*work)
        of_sides = tape.new(elements, width, f"gradient of {name}'s sides")
        if not needs_matrices:
            return [None, of_sides]
        tape.multiplies(2 * work[0], *work[1:])
        _product = tape.new(whole, width, f"gradient of {name}'s matrices, negated")
        _negated = tape.new(whole, width, f"gradient of {name}'s matrices, whole")
        return [tape.new(whole, width, f"gradient of {name}'s matrices"), of_sides]

    tape.multiplies(*work)
    output = tape.new(elements, width, name)
    return tape.record(output, (matrices, sides), (matrices, output), backward)
