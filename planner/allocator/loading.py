"""What the allocator holds once a model is loaded whose matrices are quantized on the way.

Each matrix is whole beside the codes that are made of it, and leaves a hole of its size, into which
a later one may not fit: between stacks of experts such holes are hundreds of MiB. The order is that
of names (planner/memory/quantized_loading.py), and adapters come last. Experts that files hold one
by one are taken as joined already.

read: bitsandbytes/functional.py, quantize_4bit, and nn/modules.py, Int8Params._quantize, at 0.50.2.
"""

from collections.abc import Iterable, Iterator

from planner.allocator.large_requests import Request, Run, runs_after
from planner.allocator.pools import SMALL_REQUEST_BYTES
from planner.base.units import FP32_BYTES, block, ceil_div
from planner.memory.quantized_loading import in_order_of_names
from planner.models.linear import Linear
from planner.models.module_names import module_names
from planner.plan.schema import QuantizationSection
from planner.workload.dtypes import Numerics
from planner.workload.parameters import Sized, parameters
from planner.workload.quantization import BLOCK_SIZE, loading_copy_width, quantized_tensors
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload

TABLES_AFTER_LAYERS = "transformer.h"
"""Name of layers that come before ``transformer.wte`` and its like."""


def loaded(workload: Workload, kinds: Numerics, *, adapters: bool = True) -> Iterator[Request]:
    """Yield the requests of a load; with the ``adapters``, if a rank keeps them where they are."""
    quantization, model, whole = (
        workload.settings.quantization,
        workload.model,
        parameters(workload),
    )
    assert quantization is not None
    head = [each for each in whole.after if each.name.startswith("lm_head")]
    others = [each for each in whole.after if each not in head]
    yield from _weights(head, kinds)
    tables_last = module_names(model.model_type).layers == TABLES_AFTER_LAYERS
    if not tables_last:
        yield from _weights(whole.before, kinds)
    for number, kind in enumerate(model.layers):
        yield from _weights(whole.layers[number], kinds)
        for matrix in in_order_of_names(workload, kind, from_files=False):
            yield from _quantized(f"layers.{number}", matrix, quantization, kinds)
    if tables_last:
        yield from _weights(whole.before, kinds)
    yield from _weights([*others, *whole.beside], kinds)
    for place, outside in (("outside", model.outside_linears), ("towers", model.tower_linears)):
        for number, matrix in enumerate(each for each in outside if not each.whole):
            yield from _quantized(f"{place}.{number}", matrix, quantization, kinds)
    if adapters:
        yield from _adapters(workload, whole, kinds)


def _adapters(workload: Workload, whole: Iterable[Sized], kinds: Numerics) -> Iterator[Request]:
    """Yield the matrices that adapters share, if they do, and what trains."""
    for number, elements in enumerate(workload.shared_matrices):
        if elements:
            yield ("shared", number), block(elements * kinds.shared)
    for each in whole:
        if each.trains:
            yield each.name, block(each.elements * kinds.trainable)


def beside_sizes(workload: Workload, kinds: Numerics) -> list[int]:
    """Return the bytes of each weight that no text passes, in a model that is not quantized."""
    width = kinds.trainable if workload.method == "full" else kinds.outside
    return [each.elements * width for each in parameters(workload).beside]


def _weights(found: Iterable[Sized], kinds: Numerics) -> Iterator[Request]:
    """Yield those that are no adapters."""
    return ((each.name, block(each.elements * kinds.outside)) for each in found if not each.trains)


def _quantized(
    place: str, matrix: Linear, quantization: QuantizationSection, kinds: Numerics
) -> Iterator[Request]:
    """Yield a whole matrix, what is made of it, and the end of the rest."""
    name, weights = f"{place}.{matrix.key}", matrix.weight_params
    yield (name, "whole"), block(weights * kinds.compute)
    codes, *others = quantized_tensors(matrix, quantization)
    made = [("codes", codes), *enumerate(others)]
    copies: list[tuple[str, int]] = []
    if quantization.quant_type == "int8":
        copies = [("copy", weights * loading_copy_width(quantization))]
    elif quantization.double_quant:
        scales = ceil_div(weights, BLOCK_SIZE) * FP32_BYTES
        copies = [("scales in fp32", scales), ("scales less their mean", scales)]
        made.insert(1, copies[1])
    for part, num_bytes in [*copies[:1], *made]:
        yield (name, part), block(num_bytes)
    for part, _ in reversed([("whole", 0), *copies]):
        yield (name, part), 0


@cached_by_settings(*TRAINED)
def runs_of_load(workload: Workload, kinds: Numerics, *, adapters: bool) -> tuple[Run, ...]:
    """Return what the large requests of a load leave, in the order of addresses."""
    requests = loaded(workload, kinds, adapters=adapters)
    return runs_after(each for each in requests if not 0 < each[1] <= SMALL_REQUEST_BYTES)
