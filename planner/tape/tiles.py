"""A part of a model that runs tile by tile over the tokens, so that only one tile has its inner
tensors.

Every tile is checkpointed: backward runs it again. On the tape stand the first tile, which is the
last that runs again and needs the input no longer; the last one, which may be shorter; and one that
stands for all between them, and runs while all that these make is there.

Source: Bekman et al., "Arctic Long Sequence Training", arXiv:2506.13996, section 3.1.
"""

from collections.abc import Callable

from planner.base.units import ceil_div
from planner.tape import operators as ops
from planner.tape import view_operators as views
from planner.tape.tape import Tape
from planner.tape.tensors import Tensor


def tile_by_tile(
    tape: Tape,
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    *,
    tokens: int,
    tile_tokens: int,
    output_width: int,
) -> Tensor:
    """Return the output of ``run`` on tiles of ``x``, joined, as ``launcher/training/tiled_mlp.py``
    does with a module.

    ``x`` has so many ``tokens``, a tile ``tile_tokens``. ``run`` returns a tensor of the shape that
    it is given, with ``output_width`` bytes per element. What is one tile is not tiled.
    """
    tiles = ceil_div(tokens, tile_tokens)
    if tiles == 1:
        return run(x)
    features = x.elements // tokens
    whole, rest = tile_tokens * features, (tokens - (tiles - 1) * tile_tokens) * features
    others = max(0, tiles - 3) * whole
    first, *between, last = views.split(
        tape, x, [whole, rest] if tiles == 2 else [whole, whole, others, rest]
    )

    def output(tile: Tensor, times: int = 1) -> Tensor:
        def again(given: Tensor) -> Tensor:
            with tape.repeated(times):
                return run(given)

        return tape.checkpoint(again, tile)

    tape.fills_in_steps()
    of_others = tape.new(others, output_width, "outputs of the other tiles")
    outputs = [output(first)]
    if between:
        outputs += [output(between[0], tiles - 2), _others(tape, between[1], of_others)]
    outputs.append(output(last))
    return ops.concatenate(tape, tuple(outputs), "outputs of all tiles")


def _others(tape: Tape, x: Tensor, outputs: Tensor) -> Tensor:
    """Return the outputs of the tiles that another one stands for: their gradient is there before
    that of the other."""
    elements, width = x.elements, x.width

    def backward(_gradient: Tensor) -> list[Tensor | None]:
        tape.fills_in_steps()
        return [tape.new(elements, width, "gradients of the other tiles")]

    return tape.record(outputs, (x,), (), backward)
