"""Operators that send tokens to experts, as bytes: what each makes, saves, and gives back.

read: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp at 2.13.
"""

from planner.tape.operators import INT64, dequantized, unary
from planner.tape.tape import ProductKind, Tape
from planner.tape.tensors import Tensor

INT32 = 4


def top_k(tape: Tape, x: Tensor, elements: int) -> tuple[Tensor, Tensor]:
    """Return the largest elements of each row and their places, which are saved."""
    whole, width = x.elements, x.width
    values = tape.new(elements, width, "weights of the chosen experts")
    indices = tape.new(elements, INT64, "chosen experts")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(whole, width, "gradient of the chosen, scattered")]

    return tape.record(values, (x,), (indices,), backward), indices


def detached_maximum(tape: Tape, x: Tensor, groups: int) -> Tensor:
    """Return ``x.max(dim)``; only places are taken of it, so that no gradient comes back."""
    _places = tape.new(groups, INT64, "places of the maxima")
    return tape.new(groups, x.width, "maxima of the groups")


def masked(tape: Tape, x: Tensor, name: str, *, mask_elements: int | None = None) -> Tensor:
    """Return ``x.masked_fill(mask, value)``; the mask is saved, which may be smaller."""
    mask = tape.new(mask_elements or x.elements, 1, f"mask of {name}")
    return masked_by(tape, x, mask, name)


def masked_by(tape: Tape, x: Tensor, mask: Tensor, name: str) -> Tensor:
    """Return ``x.masked_fill(mask, value)`` by a mask that is there."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}")]

    return tape.record(tape.new(elements, width, name), (x,), (mask,), backward)


def gathered_rows(tape: Tape, x: Tensor, indices: Tensor, elements: int, name: str) -> Tensor:
    """Return ``x[indices]``, rows or single values; its gradient is added into zeros."""
    whole, width = x.elements, x.width
    tape.packs((indices,))

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(whole, width, f"gradient of {name}, scattered")]

    return tape.record(tape.new(elements, width, name), (x,), (indices,), backward)


def normalized(tape: Tape, x: Tensor, rows: int) -> Tensor:
    """Return ``x /= x.sum(-1, keepdim=True)``: in place, so that what was there before is
    copied."""
    divided, _total = _divided(tape, x, row_sums(tape, x, rows))
    return divided


def normalized_from(tape: Tape, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return ``x /= total`` and ``total = x.sum(-1, keepdim=True) + 1e-20``."""
    total = unary(tape, row_sums(tape, x, rows), "sums of weights and epsilon")
    return _divided(tape, x, total)


def quotient(tape: Tape, x: Tensor, rows: int, *, sum_width: int | None) -> Tensor:
    """Return ``x / (x.sum(-1, keepdim=True) + 1e-6)``; the sum, and so the quotient, has another
    width where one is given."""
    elements = x.elements
    total = unary(tape, row_sums(tape, x, rows, width=sum_width), "sums of weights and epsilon")
    width = max(x.width, total.width)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_x = tape.new(elements, width, "gradient of a quotient")
        whole = tape.new(elements, width, "gradient of a divisor")
        del whole
        return [of_x, tape.new(rows, width, "gradient of a divisor, reduced")]

    divided = tape.new(elements, width, "weights of the chosen experts, divided")
    return tape.record(divided, (x, total), (x, total), backward)


def _divided(tape: Tape, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    elements, width, rows = x.elements, x.width, total.elements
    saved: tuple[Tensor, ...] = (total,)
    if x.node is not None:
        saved = (tape.new(elements, width, "weights before they are divided"), total)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_x = tape.new(elements, width, "gradient of a quotient")
        whole = tape.new(elements, width, "gradient of a divisor")
        del whole
        return [of_x, tape.new(rows, width, "gradient of a divisor, reduced")]

    divided = Tensor(elements, width, x.storage, None)
    return tape.record(divided, (x, total), saved, backward), total


def divided(tape: Tape, x: Tensor, total: Tensor) -> Tensor:
    """Return ``x / total``, which saves both."""
    elements, width, rows = x.elements, x.width, total.elements

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        of_x = tape.new(elements, width, "gradient of a quotient")
        whole = tape.new(elements, width, "gradient of a divisor")
        del whole
        return [of_x, tape.new(rows, width, "gradient of a divisor, reduced")]

    output = tape.new(elements, width, "weights of the chosen experts, divided")
    return tape.record(output, (x, total), (x, total), backward)


def row_sums(tape: Tape, x: Tensor, rows: int, *, width: int | None = None) -> Tensor:
    """Return ``x.sum(-1, keepdim=True)``, whose gradient is a view."""
    elements = x.elements

    def backward(gradient: Tensor) -> list[Tensor | None]:
        return [gradient.viewed(elements)]

    sums = tape.new(rows, width or x.width, "sums of weights")
    return tape.record(sums, (x,), (), backward)


def grouped_product(
    tape: Tape, x: Tensor, weight: Tensor, offsets: Tensor, *, out_features: int, name: str
) -> Tensor:
    """Return ``torch.nn.functional.grouped_mm``: each expert's rows with that expert's matrix.

    As in a linear layer the input is saved for a weight that trains; the offsets always are.
    """
    elements, width = x.elements, x.width
    of_input, of_weight = x.node is not None, weight.node is not None
    saved = (
        *((x,) if of_weight else ()),
        *((weight,) if of_input else ()),
        offsets,
    )
    weights, weight_width = weight.elements, weight.width
    tape.packs(saved)
    in_features = weights // (offsets.elements * out_features)
    made_elements = elements // in_features * out_features
    work = 2 * elements * out_features, width * (elements + weights + made_elements), width
    tape.multiplies(*work)
    output = tape.new(made_elements, width, name)

    def product(size: int, width: int, of: str, kind: ProductKind) -> Tensor:
        tape.multiplies(*work, kind=kind)
        return tape.new(size, width, f"gradient of {name}'s {of}")

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        made = product(weights, weight_width, "weights", "weight gradient") if of_weight else None
        return [product(elements, width, "input", "product") if of_input else None, made]

    return tape.record(output, (x, weight), saved, backward)


def unpacked_product(
    tape: Tape, x: Tensor, offsets: Tensor, *, weights: int, out_features: int, name: str
) -> Tensor:
    """Return the same with matrices in 4 bit, which are unpacked all together for each product:
    launcher/compat/packed_experts.py."""
    elements, width = x.elements, x.width
    made_elements = elements * offsets.elements * out_features // weights * out_features
    work = 2 * elements * out_features, width * (elements + weights + made_elements), width

    def product(size: int, name: str) -> Tensor:
        _weight = dequantized(tape, weights, width)[1]
        tape.multiplies(*work)
        return tape.new(size, width, name)

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [product(elements, f"gradient of {name}'s input")]

    return tape.record(product(made_elements, name), (x,), (offsets,), backward)


def reordered(tape: Tape, x: Tensor, name: str) -> Tensor:
    """Return a view of a matrix in three dimensions of another order; its gradient is copied into
    the matrix's."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, copied")]

    return tape.record(Tensor(elements, width, x.storage, None), (x,), (), backward)


def summed_experts(tape: Tape, x: Tensor, experts_per_token: int) -> Tensor:
    """Return ``x.view(tokens, k, h).sum(1)``; the expanded gradient is copied to be viewed flat."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, "gradient of each expert's output")]

    output = tape.new(elements // experts_per_token, width, "sum over a token's experts")
    return tape.record(output, (x,), (), backward)


def repeated(tape: Tape, x: Tensor, times: int, name: str) -> Tensor:
    """Return ``x.repeat(times, 1)``, whose gradient is summed."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(elements, width, f"gradient of {name}, summed")]

    return tape.record(tape.new(times * elements, width, name), (x,), (), backward)


def scattered(tape: Tape, x: Tensor, indices: Tensor, elements: int, name: str) -> Tensor:
    """Return a constant tensor into which ``scatter_`` has put ``x``: the places are saved."""
    size, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        return [tape.new(size, width, f"gradient of {name}, gathered")]

    return tape.record(tape.new(elements, width, name), (x,), (indices,), backward)


def order_of(tape: Tape, elements: int) -> tuple[Tensor, Tensor]:
    """Return ``torch.sort`` of the chosen experts: the experts, and where each one was."""
    return (
        tape.new(elements, INT64, "experts in order"),
        tape.new(elements, INT64, "places in order"),
    )
