"""Rates of the kernels of a training step, over shapes as models have them.

On the CPU new memory has a rate of its own, so that kernels are timed without any. Operations and
bytes are counted as the planner's tape counts them (planner/tape/counting_tape.py): a multiply-add
is two operations, and bytes are those that are read and written.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from launcher.measurement.stopwatch import Curve, Stopwatch, curve
from planner.base.phrases import Phrase
from planner.base.units import FP32_BYTES, KIB, MIB


class ProductShape(NamedTuple):
    """Sizes of a product of activations with a weight."""

    rows: int
    columns: int
    outputs: int


WIDTHS = {"cpu": (576, 1536), "cuda": (4096, 4096)}
"""Columns and outputs of the products that are timed, of a small model and of a large one."""
ROWS = {"cpu": (64, 256, 1024, 4096), "cuda": (64, 256, 1024, 4096, 16384)}
HEADS_SHAPE = {"cpu": ProductShape(1024, 576, 49152), "cuda": ProductShape(4096, 4096, 32768)}
"""Products with a head, whose outputs are a vocabulary."""
SHAPES = {
    device: [*(ProductShape(rows, *WIDTHS[device]) for rows in ROWS[device]), HEADS_SHAPE[device]]
    for device in WIDTHS
}
RANK = 16
"""Rank of the adapter's products."""
HEADS, HEAD_DIM = 8, 64
LENGTHS = {"cpu": (64, 128, 256, 512, 1024), "cuda": (256, 1024, 4096)}
MOVED = (16 * KIB, 256 * KIB, 2 * MIB, 16 * MIB, 64 * MIB)
"""Bytes of each of the three tensors of a kernel that moves data."""
TURNED_BYTES = 192 * MIB
"""Bytes of the tensors that take turns."""
FRESH_BYTES = 64 * MIB
"""Bytes of new memory: above what the C library reuses."""
SHORTEST_S = 1e-9
UPDATED = (1 * MIB, 64 * MIB)
DROPPED = 0.1
ATTENTION_BACKWARD = 2.5
"""Operations of attention's gradient over those of the attention (arXiv:2307.08691, 3.1.2)."""
NF4_BLOCK = 64


def kernel_rates(watch: Stopwatch, half: torch.dtype, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the rates but that of the host; ``half`` is the device's 16-bit dtype."""
    rates: dict[str, Any] = {}
    for name, dtype in (("bits_16", half), ("bits_32", torch.float32)):
        kind = str(dtype).removeprefix("torch.")
        say(Phrase("matrix products and attention in {kind}", kind=kind))
        products = product_rates(watch, dtype)
        rates[name] = {**products, "attention": attention_rates(watch, dtype)}
    say(Phrase("memory bandwidth, random numbers, exponentials, optimizer update"))
    rates["moved"] = _curve(watch, _moved(watch.device))
    if watch.device.type == "cpu":
        rates["fresh_bytes_per_s"] = fresh_bytes_per_s(watch)
    rates["random"] = _curve(watch, _random(watch.device, half))
    rates["exponential"] = _curve(watch, _exponential(watch.device))
    rates["updated"] = _curve(watch, _updated(watch.device))
    rates["dequantized"] = _curve(watch, _dequantized(watch.device, half))
    return rates


Timed = tuple[float, Callable[[], Any]]
"""The size of a work, and the work."""


def _curve(watch: Stopwatch, works: Iterable[Timed]) -> Curve:
    """Return the rate of each work, which come by ascending size."""
    return curve(watch, reversed(list(works)), watch.seconds)


def product_rates(watch: Stopwatch, dtype: torch.dtype) -> dict[str, Curve]:
    """Return the rates of products with a model's matrices and with an adapter's, and those of the
    gradients of both.

    Every call takes other operands: a step has more of them than caches hold.
    """
    rates: dict[str, Curve] = {"wide": [], "thin": [], "wide_gradient": [], "thin_gradient": []}
    for shape in reversed(SHAPES[watch.device.type]):
        if rates["thin"] and watch.is_over:
            break
        _time_wide(watch, dtype, shape, rates)
        if shape.outputs == WIDTHS[watch.device.type][1]:
            _time_thin(watch, dtype, shape, rates)
    return rates


def _time_wide(
    watch: Stopwatch, dtype: torch.dtype, shape: ProductShape, rates: dict[str, Curve]
) -> None:
    rows, columns, outputs = shape
    sizes = (rows, columns), (outputs, columns), (rows, outputs)
    operands = _in_turn(watch.device, dtype, *sizes)

    def forward() -> None:
        x, weight, output = next(operands)
        torch.mm(x, weight.t(), out=output)

    def gradient() -> None:
        x, weight, of_output = next(operands)
        torch.mm(of_output.t(), x, out=weight)

    flops = 2 * rows * columns * outputs
    for name, work in (("wide", forward), ("wide_gradient", gradient)):
        rates[name].insert(0, {"size": flops, "per_s": flops / watch.seconds(work)})


def _time_thin(
    watch: Stopwatch, dtype: torch.dtype, shape: ProductShape, rates: dict[str, Curve]
) -> None:
    """Time the two products of an adapter, from the columns to its rank and back, as one work."""
    rows, columns, _ = shape
    sizes = (rows, columns), (rows, RANK), (RANK, columns), (columns, RANK)
    operands = _in_turn(watch.device, dtype, *sizes)

    def forward() -> Any:
        x, _, down, up = next(operands)
        return linear(linear(x, down), up)

    def gradient() -> None:
        x, inside, down, up = next(operands)
        torch.mm(inside.t(), x, out=down)
        torch.mm(x.t(), inside, out=up)

    moved = (rows * columns + rows * RANK + RANK * columns) * dtype.itemsize
    for name, work in (("thin", forward), ("thin_gradient", gradient)):
        rates[name].insert(0, {"size": moved, "per_s": 2 * moved / watch.seconds(work)})


def _in_turn(
    device: torch.device, dtype: torch.dtype, *sizes: tuple[int, int]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Return matrices of these sizes, again and again, of as many sets as are larger than
    caches."""
    one = sum(rows * columns for rows, columns in sizes) * dtype.itemsize
    count = max(1, TURNED_BYTES // one)
    return cycle(
        [
            tuple(torch.ones(size, device=device, dtype=dtype) for size in sizes)
            for _ in range(count)
        ]
    )


def attention_rates(watch: Stopwatch, dtype: torch.dtype) -> dict[str, Curve]:
    """Return the rates of fused attention, forward and backward, without a mask and with one, by
    the tokens of a sequence."""
    rates: dict[str, Curve] = {}
    for name, masked in (("", False), ("masked_", True)):
        forward, backward = Curve(), Curve()
        for length in reversed(LENGTHS[watch.device.type]):
            if forward and watch.is_over:
                break
            flops, there, back = _attention(watch.device, dtype, length, masked=masked)
            forward.insert(0, {"size": length, "per_s": flops / watch.seconds(there)})
            more = ATTENTION_BACKWARD * flops
            backward.insert(0, {"size": length, "per_s": more / watch.seconds(back)})
        rates |= {f"{name}forward": forward, f"{name}backward": backward}
    return rates


def _attention(
    device: torch.device, dtype: torch.dtype, length: int, *, masked: bool
) -> tuple[float, Callable[[], Any], Callable[[], Any]]:
    """Return operations of the forward pass, the pass, and the pass back."""
    shape = (2, HEADS, length, HEAD_DIM)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, length, length, device=device, dtype=dtype) if masked else None
    flops = 4.0 * 2 * HEADS * length * length * HEAD_DIM / (1 if masked else 2)

    def there() -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=not masked)

    output = there()
    gradient = torch.randn_like(output)

    def back() -> Any:
        return torch.autograd.grad(output, (q, k, v), gradient, retain_graph=True)

    return flops, there, back


def _moved(device: torch.device) -> Iterator[Timed]:
    """A product of two tensors, of which the next call takes others: a step has more of them than
    caches hold."""
    for size in MOVED:
        count = max(1, TURNED_BYTES // (3 * size))
        shape = (count, 3, size // FP32_BYTES)
        tensors = torch.ones(shape, device=device)
        turn = cycle(range(count))

        def moved(tensors: torch.Tensor = tensors, turn: Iterator[int] = turn) -> None:
            a, b, made = tensors[next(turn)]
            torch.mul(a, b, out=made)

        yield 3 * size, moved


def fresh_bytes_per_s(watch: Stopwatch) -> float:
    """Return how much new memory this process is given, and gives back, per second: a fill of it,
    less a fill of the same memory."""
    there = torch.empty(FRESH_BYTES // FP32_BYTES)
    again_s = watch.seconds(partial(there.fill_, 1.0))

    def made_and_freed() -> None:
        torch.empty_like(there).fill_(1.0)

    new_s = watch.seconds(made_and_freed)
    return FRESH_BYTES / max(new_s - again_s, SHORTEST_S)


def _random(device: torch.device, half: torch.dtype) -> Iterator[Timed]:
    """The mask of dropout, as torch makes it on the CPU: drawn, then scaled."""
    for elements in (2**14, 2**20):
        like = torch.empty(elements, device=device, dtype=half)

        def drawn(like: torch.Tensor = like) -> torch.Tensor:
            return torch.empty_like(like).bernoulli_(1 - DROPPED).div_(1 - DROPPED)

        yield elements, drawn


def _exponential(device: torch.device) -> Iterator[Timed]:
    for rows in (16, 128):
        x = torch.randn(rows, 2**15, device=device)
        yield x.numel(), lambda x=x: torch.softmax(x, -1)  # type: ignore[misc]


def _updated(device: torch.device) -> Iterator[Timed]:
    """One parameter's update by fused AdamW: parameter, gradient and two moments are read, all but
    the gradient written."""
    for size in UPDATED:
        parameter = torch.nn.Parameter(torch.randn(size // FP32_BYTES, device=device))
        parameter.grad = torch.randn_like(parameter)
        optimizer = torch.optim.AdamW([parameter], fused=True)
        optimizer.step()
        yield 7 * size, optimizer.step


def _dequantized(device: torch.device, half: torch.dtype) -> Iterator[Timed]:
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        return
    for rows in (576, 4096):
        weight = torch.randn(rows, 1536, device=device, dtype=half)
        packed, state = quantize_4bit(weight, quant_type="nf4")
        elements = weight.numel()
        moved = elements // 2 + FP32_BYTES * (elements // NF4_BLOCK) + half.itemsize * elements
        yield moved, lambda p=packed, s=state: dequantize_4bit(p, s)  # type: ignore[misc]
