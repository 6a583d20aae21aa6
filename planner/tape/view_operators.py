"""Operators whose results share the storage of their input, as bytes.

read: tools/autograd/derivatives.yaml and torch/csrc/autograd/functions/tensor.cpp at 2.13.
"""

from collections.abc import Sequence

from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def split(tape: Tape, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return ``x.split(sizes)``: views of one operator, whose gradients wait for each other and are
    concatenated."""
    elements, width = x.elements, x.width
    arrived: list[Tensor] = []

    def part(size: int) -> Tensor:
        def backward(gradient: Tensor) -> list[Tensor | None]:
            arrived.append(gradient)
            if len(arrived) < len(sizes):
                return [None]
            whole = tape.new(elements, width, "gradients of all parts")
            arrived.clear()
            return [whole]

        return tape.record(Tensor(size, width, x.storage, None), (x,), (), backward)

    return [part(size) for size in sizes]


def expanded(tape: Tape, x: Tensor, times: int) -> Tensor:
    """Return ``x.expand``: the same bytes seen so many times; gradients are summed."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of an expanded tensor, summed")]

    return tape.record(Tensor(times * elements, width, x.storage, None), (x,), (), backward)


def reordered(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return ``x`` in another order of dimensions: the same bytes, and a gradient that is copied
    into the order of ``x``."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, copied")]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (), backward)


def filled(tape: Tape, parts: Sequence[Tensor], name: str) -> Tensor:
    """Return ``new_empty`` with each part copied into its place by ``copy_``."""
    whole = tape.new(sum(part.elements for part in parts), parts[0].width, name)
    for part in parts:
        whole = copied_into(tape, whole, part)
    return whole


def copied_into(tape: Tape, whole: Tensor, part: Tensor) -> Tensor:
    """Return ``whole`` with a part copied into its place. Mirror CopySlices: a copy of the
    gradient, in which the place of the part is made zero."""
    elements, width, size = whole.elements, whole.width, part.elements
    had_gradient = whole.node is not None

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        rest = tape.new(elements, width, "gradient without a part")
        of_part = tape.new(size, width, "gradient of a part")
        zeros = tape.new(size, width, "zeros in the place of a part") if had_gradient else None
        del zeros
        return [rest if had_gradient else None, of_part]

    view = Tensor(elements, width, whole.storage, None)
    return tape.record(view, (whole, part), (), backward)


def subtract(tape: Tape, a: Tensor, b: Tensor, name: str, *, elements: int | None = None) -> Tensor:
    """Return ``a - b``: the second operand's gradient is negated, and reduced where it is
    broadcast. ``elements`` is for operands that are both broadcast."""
    elements = elements or max(a.elements, b.elements)
    width = max(a.width, b.width)
    needed = (a.node is not None, b.node is not None)

    def backward(gradient: Tensor) -> list[Tensor | None]:
        negated = tape.new(elements, width, f"gradient of {name}, negated") if needed[1] else None
        return [gradient.viewed() if needed[0] else None, negated]

    return tape.record(tape.new(elements, width, name), (a, b), (), backward)


def added_in_place(tape: Tape, x: Tensor, y: Tensor) -> Tensor:
    """Return ``x.add_(y)``: both operands get the same gradient."""
    needed = (x.node is not None, y.node is not None)

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed() if need else None for need in needed]

    return tape.record(Tensor(x.elements, x.width, x.storage, None), (x, y), (), backward)


def scaled_through_a_view(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return ``x.reshape(...).mul_(noise)``, which changes ``x`` itself, by CopySlices: the noise
    is saved, and the gradient is copied twice before it is multiplied."""
    elements, width = x.elements, x.width
    noise = tape.new(elements, width, f"noise of {name}")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        whole = tape.new(elements, width, f"gradient of {name}")
        _inside = [tape.new(elements, width, f"gradient of {name}, copied") for _ in range(2)]
        return [whole]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (noise,), backward)


def multiplied_in_place(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return ``x.mul_(noise)``: the noise is saved."""
    elements, width = x.elements, x.width
    noise = tape.new(elements, width, f"noise of {name}")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (noise,), backward)


def added_through_a_view(tape: Tape, x: Tensor, y: Tensor, name: str, *, part: int) -> Tensor:
    """Return ``view.add_(y)``, of a view that has so many elements of ``x``, which it changes.
    Mirror CopySlices: the gradient is copied, and its part again, which goes to ``y``."""
    elements, width = x.elements, x.width
    needed = (x.node is not None, y.node is not None)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        whole = tape.new(elements, width, f"gradient of {name}")
        of_part = tape.new(part, width, f"gradient of {name}'s part")
        return [whole if needed[0] else None, of_part if needed[1] else None]

    return tape.record(Tensor(elements, width, x.storage, None), (x, y), (), backward)


def repeated(tape: Tape, x: Tensor, times: int, name: str) -> Tensor:
    """Return ``x.repeat``: copies one after the other, whose gradients are summed."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, summed")]

    return tape.record(tape.new(times * elements, width, name), (x,), (), backward)


def scaled_in_place(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return ``x.mul_(number)``, whose gradient is another tensor."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (), backward)
