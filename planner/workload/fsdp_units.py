"""The units that PyTorch's FSDP2 shards, gathers and reduces together, and their bytes.

read: launcher/training/fully_sharded.py for the units: each layer; the token embedding; the last
norm and the head, or the two with the embedding that the head is tied to; all that stands beside
the text model, which no text passes, so that it is never gathered; and the root, which has the
rest. read: torch/distributed/fsdp/_fully_shard at 2.13:

    shards      each parameter by itself, cut into equal parts of its rows, the last ones filled up
                (_fsdp_param.py, _init_sharded_param)
    gathered    a buffer that all parameters of the unit arrive in, and a copy of each out of it;
                before, what is cast is copied once on the rank (_fsdp_collectives.py,
                foreach_all_gather, _get_param_all_gather_inputs)
    reduced     the gradients of the unit in one buffer, in the dtype that is reduced; then the
                rank's part of it, which the gradients of its shards are views of (foreach_reduce)

bitsandbytes packs a matrix as one column of a floating dtype, which is cut like any other; its
scales and constants are no parameters and stay whole (bitsandbytes/nn/modules.py at 0.50.2,
Params4bit).

Offloaded shards are in pinned host memory: each is copied to the device, and there to the dtype
that is gathered (_fsdp_param.py, all_gather_inputs), and its gradient goes to the host as soon as
it is reduced.

With several copies of the parameters (a mesh of two dimensions) all of this is over the ranks of
one copy; each unit's reduced part is then summed over the copies in place, and stays on the device
until backward has ended, also where the gradient has gone to the host (_fsdp_param_group.py,
_all_reduce_state and finalize_backward).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod

from msgspec import Struct

from planner.base.units import block, ceil_div
from planner.models.layer_kinds import LayerKind
from planner.models.linear import Linear
from planner.plan.schema import QuantizationSection
from planner.workload.dtypes import Numerics
from planner.workload.layout import Layout
from planner.workload.parameters import Sized, parameters
from planner.workload.quantization import quantized_tensors
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import TrainedTensor
from planner.workload.workload import Workload


def shard_of(shape: Sequence[int], ranks: int) -> tuple[int, ...]:
    """Return the shape of a rank's part of a parameter.

    >>> shard_of((10, 4), 4), shard_of((3,), 8)
    ((3, 4), (1,))
    """
    rows, *others = shape
    return ceil_div(rows, ranks), *others


class Piece(Struct, frozen=True):
    """One parameter of a unit, as each rank has it."""

    elements: int
    """Elements of a rank's part."""
    whole: int
    """Elements of all parts, without what fills them up."""
    width: int
    """Bytes per element between steps."""
    trains: bool


class Unit(Struct, frozen=True):
    """Bytes of one unit on each rank."""

    frozen_bytes: int
    """Bytes of the shards of what is frozen, and of what stays whole beside packed weights."""
    trained_bytes: int
    """Bytes of the shards of what trains."""
    cast_bytes: int
    """Bytes of what a rank copies of its shards to gather them: those in the compute precision that
    have another, or, offloaded, all."""
    buffer_bytes: int
    """Bytes of the buffer in which all ranks' parts arrive."""
    whole_bytes: int
    """Bytes of all parameters, whole."""
    loaded_bytes: int
    """Bytes of all parameters as they come to the device, to be cut; offloaded, with the largest
    shard, on its way to the host."""
    reduced_bytes: int
    """Bytes of the buffer in which gradients are reduced."""
    gradient_bytes: int
    """Bytes of the gradients of the rank's shards on the device, until backward has ended."""


NO_UNIT = Unit(0, 0, 0, 0, 0, 0, 0, 0)
"""A unit without parameters."""


class Units(Struct, frozen=True):
    """The units of a model, in the order in which they run."""

    root: Unit
    embedding: Unit
    """The token embedding; without parameters where the head is tied to it."""
    layers: tuple[Unit, ...]
    tail: Unit
    """The last norm and the head, with the embedding where it is the head's."""
    tied: bool
    towers: Unit
    """Models of images and of sound beside the text model; without parameters where there are
    none."""

    @property
    def all(self) -> tuple[Unit, ...]:
        """Every unit once; what is loaded first comes last."""
        return self.root, self.tail, self.embedding, *reversed(self.layers), self.towers

    @property
    def gradients_bytes(self) -> int:
        """Bytes of the gradients of all of a rank's shards."""
        return sum(unit.gradient_bytes for unit in self.all)


def units_of(workload: Workload, layout: Layout, kinds: Numerics) -> Units:
    """Return the units of a workload in a layout of FSDP."""
    return fsdp_units(
        workload,
        layout.shard_ranks,
        kinds,
        offloaded=layout.offload != "none",
        has_copies=layout.copies > 1,
    )


@cached_by_settings(*TRAINED)
def fsdp_units(
    workload: Workload,
    ranks: int,
    kinds: Numerics,
    *,
    offloaded: bool = False,
    has_copies: bool = False,
) -> Units:
    """Return the units of a workload that is sharded over so many ranks, whose shards are in host
    memory where they are ``offloaded``; ``has_copies`` where other ranks have the same."""
    whole, model = parameters(workload), workload.model
    unit = partial(
        _unit,
        quantization=workload.settings.quantization,
        ranks=ranks,
        kinds=kinds,
        offloaded=offloaded,
        has_copies=has_copies,
    )
    found: dict[tuple[LayerKind, int], Unit] = {}
    layers = []
    for kind, inside in zip(model.layers, whole.layers, strict=True):
        key = kind, sum(each.elements for each in inside)
        if key not in found:
            found[key] = unit(inside, workload.packed(kind))
        layers.append(found[key])
    table, *others = whole.before
    tail = [each for each in whole.after if each.name.split(".")[0] in ("norm", "lm_head")]
    rest = [each for each in whole.after if each not in tail]
    tied = model.tied_embeddings
    return Units(
        root=unit([*others, *rest], workload.packed_outside),
        embedding=NO_UNIT if tied else unit([table]),
        layers=tuple(layers),
        tail=unit([*([table] if tied else []), *tail]),
        tied=tied,
        towers=unit(whole.beside, workload.packed_towers),
    )


def packed_piece(
    matrix: Linear, quantization: QuantizationSection, ranks: int, kinds: Numerics
) -> Piece:
    """Return the rank's part of a packed matrix."""
    size = quantized_tensors(matrix, quantization)[0] // kinds.frozen
    return Piece(ceil_div(size, ranks), size, kinds.frozen, False)


def constants_bytes(matrix: Linear, quantization: QuantizationSection) -> int:
    """Return the bytes of what stays whole beside a packed matrix."""
    return sum(quantized_tensors(matrix, quantization)[1:])


def _unit(
    inside: Iterable[Sized],
    packed: Sequence[Linear] = (),
    *,
    quantization: QuantizationSection | None,
    ranks: int,
    kinds: Numerics,
    offloaded: bool,
    has_copies: bool,
) -> Unit:
    pieces = [
        Piece(
            prod(shard_of(each.shape, ranks)),
            each.elements,
            kinds.home if each.trains else kinds.outside,
            each.trains,
        )
        for each in inside
    ]
    whole_bytes = 0
    if quantization is not None:
        pieces += [packed_piece(matrix, quantization, ranks, kinds) for matrix in packed]
        whole_bytes = sum(constants_bytes(matrix, quantization) for matrix in packed)
    trained = sum(piece.elements for piece in pieces if piece.trains)
    cast = [piece for piece in pieces if piece.width != kinds.compute]
    copied = block(sum(piece.elements for piece in cast) * kinds.compute)
    if offloaded:
        copied = sum(block(piece.elements * kinds.compute) for piece in pieces)
        copied += max((block(piece.elements * piece.width) for piece in cast), default=0)
    kept = [] if offloaded else pieces
    return Unit(
        frozen_bytes=whole_bytes
        + sum(block(piece.elements * piece.width) for piece in kept if not piece.trains),
        trained_bytes=sum(block(piece.elements * piece.width) for piece in kept if piece.trains),
        cast_bytes=copied,
        buffer_bytes=block(sum(piece.elements for piece in pieces) * ranks * kinds.compute),
        whole_bytes=sum(block(piece.elements * ranks * kinds.compute) for piece in pieces),
        loaded_bytes=whole_bytes
        + sum(block(piece.whole * piece.width) for piece in pieces)
        + (max((block(piece.elements * piece.width) for piece in pieces), default=0) * offloaded),
        reduced_bytes=block(trained * ranks * kinds.home),
        gradient_bytes=0 if offloaded and not has_copies else block(trained * kinds.home),
    )


def shard_tensors(workload: Workload, ranks: int) -> list[TrainedTensor]:
    """Return a rank's parts of what trains, which the optimizer is handed, in the model's order."""
    return [
        TrainedTensor(shard_of(each.shape, ranks), each.role)
        for each in parameters(workload)
        if each.trains
    ]


def shard_sizes(workload: Workload, ranks: int, kinds: Numerics) -> list[int]:
    """Return the bytes of a rank's part of each parameter, packed ones included."""
    sizes = [
        prod(shard_of(each.shape, ranks)) * (kinds.home if each.trains else kinds.outside)
        for each in parameters(workload)
    ]
    quantization = workload.settings.quantization
    if quantization is not None:
        for matrix, count in workload.counted_packed:
            piece = packed_piece(matrix, quantization, ranks, kinds)
            sizes += [piece.elements * piece.width] * count
    return sizes
