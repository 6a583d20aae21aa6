"""The kernels of one micro-batch through a whole model, for every batch size and recomputation.

A counting tape runs one layer of each kind, once kept and once recomputed, with a few samples and
with one more. The other layers have the same kernels, and operations and bytes grow linearly with
the samples. The first layer counts as the others of its kind.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct, structs

from planner.forward.decoder import Decoder
from planner.forward.model_pass import ModelPass, PassedLayer
from planner.hardware.cluster import Device
from planner.models.layer_kinds import LayerKind
from planner.models.model_spec import ModelSpec
from planner.models.traced_model import TracedSpec
from planner.speed.card_rates import Rates
from planner.speed.flops import micro_batch_flops, recomputed_share
from planner.speed.measured_kernels import LARGEST_REUSED, mapped_from_bytes
from planner.tape.counting_tape import CountingTape, Kernel, KernelPhase
from planner.workload.dtypes import Numerics
from planner.workload.settings_cache import TRAINING_PASS, cached_by_settings
from planner.workload.workload import Batch, Workload

KernelPlace = tuple[LayerKind, bool] | None
"""Kind of the layer that launches a kernel and whether it is recomputed; None outside of layers."""
TimePart = Literal["products", "elementwise", "dequantize", "host copies"]


class Growing(Struct, frozen=True):
    """A kernel with so many samples, and what each further sample adds."""

    kernel: Kernel
    samples: int
    more_flops: int
    """Operations that each further sample adds."""
    more_bytes: int
    """Bytes that each further sample adds."""
    more_made: int
    """Bytes that each further sample adds to the storage it makes."""

    def with_samples(self, count: int) -> Kernel:
        """Return the kernel as it is with ``count`` samples."""
        more = count - self.samples
        kernel = self.kernel
        return Kernel(
            kernel.phase,
            kernel.kind,
            kernel.width,
            kernel.flops + more * self.more_flops,
            kernel.num_bytes + more * self.more_bytes,
            kernel.made + more * self.more_made,
            kernel.kept,
            kernel.length,
        )


Counted = Mapping[KernelPlace, Mapping[Growing, int]]
"""Number of kernels that are alike, by where they run."""


class Collectives(Struct, frozen=True):
    """What ranks that compute a layer together send each other in one micro-batch."""

    all_reduces: float = 0.0
    all_reduced_bytes: float = 0.0
    all_gathers: float = 0.0
    all_gathered_bytes: float = 0.0
    """Bytes of what is gathered, of all ranks together."""


class PassTime(Struct, frozen=True):
    """Seconds, operations and launches of one micro-batch on the device."""

    products_s: float
    elementwise_s: float
    dequantize_s: float
    host_copies_s: float
    """Seconds of copies to and from the host."""
    forward_s: float
    backward_s: float
    """Seconds of backward, recomputation included."""
    model_flops: int
    """Operations that the mathematics asks for: the numerator of MFU."""
    hardware_flops: int
    """Operations that the device executes: the numerator of HFU."""
    kernels: int
    """Number of kernel launches."""
    collectives: Collectives | None = None
    """What is sent within layers, which takes no time here; None where no layer is cut."""

    @property
    def busy_s(self) -> float:
        """Seconds in which kernels run."""
        return self.products_s + self.elementwise_s + self.dequantize_s + self.host_copies_s


class _Spans:
    """The layers of a run by the positions in its log."""

    def __init__(self, run: ModelPass, layers: list[PassedLayer]) -> None:
        tape = run.tape
        self._forward = [place for _, place in tape.borders]
        self._backward = tape.passed
        self._turn = run.casts_gone[0]
        self._layers = layers

    def place(self, log_place: int) -> KernelPlace:
        """Return which layer made the event at this position: layer n begins at border n in
        forward, and backward leaves the last layer first."""
        if log_place < self._turn:
            number = bisect_right(self._forward, log_place) - 1
        else:
            number = len(self._layers) - bisect_right(self._backward, log_place)
        if not 0 <= number < len(self._layers):
            return None
        layer = self._layers[number]
        return layer.kind, layer.recomputed


def _run(
    workload: Workload, kinds: Numerics, batch: Batch, decoder: type[Decoder] = Decoder
) -> ModelPass:
    """Run one layer of each kind whose activations are kept, and one that is recomputed."""
    return ModelPass(
        workload,
        batch,
        kinds,
        layers=_layers(workload),
        sink="keep",
        decoder=decoder,
        tape=CountingTape,
    )


def counted_once(
    workload: Workload, kinds: Numerics, batch: Batch, decoder: type[Decoder] = Decoder
) -> Counted:
    """Return the kernels of this batch alone, for any trainer's numerics."""
    run = _run(workload, kinds, batch, decoder)
    return _counted_from(workload, batch.micro_batch_size, run, run)


def _layers(workload: Workload) -> list[PassedLayer]:
    return [PassedLayer(kind, again) for again in (False, True) for kind in workload.model.kinds]


def _tape(run: ModelPass) -> CountingTape:
    assert isinstance(run.tape, CountingTape)
    return run.tape


def _counted_from(workload: Workload, samples: int, run: ModelPass, more: ModelPass) -> Counted:
    spans = _Spans(run, _layers(workload))
    found: defaultdict[KernelPlace, Counter[Growing]] = defaultdict(Counter)
    tape = _tape(run)
    kernels = tape.with_kept(run.casts_gone[0])
    for kernel, place, larger in zip(kernels, tape.places, _tape(more).kernels, strict=True):
        grows = (
            larger.flops - kernel.flops,
            larger.num_bytes - kernel.num_bytes,
            larger.made - kernel.made,
        )
        found[spans.place(place)][Growing(kernel, samples, *grows)] += kernel.times
    return found


def of_model(
    counted: Counted, model: ModelSpec, checkpointing: int
) -> Iterator[tuple[Growing, float]]:
    """Yield every kernel of a pass and how often it is launched; every ``checkpointing``-th layer
    is recomputed, no layer where it is 0."""
    share = recomputed_share(model.num_layers, checkpointing)
    for place, kernels in counted.items():
        times = 1.0
        if place is not None:
            kind, recomputed = place
            times = model.kinds[kind] * (share if recomputed else 1 - share)
        if times:
            for growing, number in kernels.items():
                yield growing, number * times


PART: dict[str, TimePart] = {
    **dict.fromkeys(("elementwise", "exponential", "random"), "elementwise"),
    "dequantize": "dequantize",
    "host copy": "host copies",
}
"""Part of a pass's time by the kind of kernel; all other kinds are products."""
COLLECTIVES = {
    "all-reduce": ("all_reduces", "all_reduced_bytes"),
    "all-gather": ("all_gathers", "all_gathered_bytes"),
}
"""Fields of :class:`Collectives` that count the kernels of a kind, and their bytes."""


def timed(kernels: Iterator[tuple[Growing, float]], samples: int, speed: Rates) -> PassTime:
    """Return the time of kernels that the device runs one after the other."""
    seconds: dict[TimePart, float] = defaultdict(float)
    phases: dict[KernelPhase, float] = defaultdict(float)
    flops: dict[KernelPhase, float] = defaultdict(float)
    launches = 0.0
    launched = [(growing.with_samples(samples), times) for growing, times in kernels]
    mapped_from = (
        mapped_from_bytes(kernel.made for kernel, _ in launched)
        if speed.measured
        else LARGEST_REUSED
    )
    sent: defaultdict[str, float] | None = None
    for kernel, times in launched:
        if kernel.kind in COLLECTIVES:
            sent = sent or defaultdict(float)
            count, num_bytes = COLLECTIVES[kernel.kind]
            sent[count] += times
            sent[num_bytes] += times * kernel.num_bytes
            launches += times
            continue
        took = times * speed.seconds(kernel, mapped_from)
        seconds[PART.get(kernel.kind, "products")] += took
        phases[kernel.phase] += took
        flops[kernel.phase] += times * kernel.flops
        launches += times
    model_flops = round(flops["forward"] + flops["backward"])
    return PassTime(
        products_s=seconds["products"],
        elementwise_s=seconds["elementwise"],
        dequantize_s=seconds["dequantize"],
        host_copies_s=seconds["host copies"],
        forward_s=phases["forward"],
        backward_s=phases["backward"] + phases["recompute"],
        model_flops=model_flops,
        hardware_flops=model_flops + round(flops["recompute"]),
        kernels=round(launches),
        collectives=None if sent is None else Collectives(**sent),
    )


MOST_TRIED = 5
"""Number of samples up to which the linear stretch is looked for."""


def _counted(
    workload: Workload, kinds: Numerics, samples: int, device: Device, ranks: int = 1
) -> Counted:
    """Return kernels of full samples, which need no mask, on one of the ranks that share them."""
    count = _of_one_sample if samples == 1 else _of_more_samples
    return count(workload, kinds, device, ranks)


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _single(workload: Workload, kinds: Numerics, device: Device, ranks: int) -> ModelPass:
    return _run(workload, kinds, _batch(workload, 1, device, ranks))


def _batch(workload: Workload, samples: int, device: Device, ranks: int) -> Batch:
    """Return full samples, on one of the ranks that share them."""
    return Batch(
        micro_batch_size=samples,
        sequence_length=workload.settings.sequence_length // ranks,
        device=device,
        sequence_ranks=ranks,
    )


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _of_one_sample(workload: Workload, kinds: Numerics, device: Device, ranks: int) -> Counted:
    first = _single(workload, kinds, device, ranks)
    return _counted_from(workload, 1, first, first)


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _of_more_samples(workload: Workload, kinds: Numerics, device: Device, ranks: int) -> Counted:
    """Return kernels of any number of samples but one.

    A single sample may have operands that need no copy, and few samples a loss of one tile: the
    linear stretch begins where one more sample launches as many kernels.
    """
    before = _single(workload, kinds, device, ranks)
    for samples in range(1, 1 + MOST_TRIED):
        more = _run(workload, kinds, _batch(workload, samples + 1, device, ranks))
        if len(_tape(before).kernels) == len(_tape(more).kernels):
            return _counted_from(workload, samples, before, more)
        before = more
    raise AssertionError("each sample more launches other kernels")


def outside_layers(
    workload: Workload, kinds: Numerics, samples: int, device: Device, ranks: int = 1
) -> Iterator[tuple[Kernel, int]]:
    """Yield kernels of a micro-batch that no layer launches, and how often each one is launched:
    those of the embedding, the head and the loss."""
    for growing, number in _counted(workload, kinds, samples, device, ranks)[None].items():
        yield growing.with_samples(samples), number


def pass_time(
    workload: Workload,
    kinds: Numerics,
    samples: int,
    *,
    checkpointing: int,
    device: Device,
    speed: Rates,
    sequence_ranks: int = 1,
) -> PassTime:
    """Return the time of one micro-batch of so many full samples, on one of the ranks that share
    them."""
    if isinstance(workload.model, TracedSpec):
        return _traced(workload, samples, checkpointing, speed)
    run = workload, kinds, device, speed, sequence_ranks
    share = recomputed_share(workload.model.num_layers, checkpointing)
    if samples <= SETTLED_FROM:
        return _mixed(*_ends(*run, samples), share)
    few, one_more = (
        _mixed(*_ends(*run, number), share) for number in (SETTLED_FROM, SETTLED_FROM + 1)
    )
    return _mixed(few, one_more, samples - SETTLED_FROM)


SETTLED_FROM = 8
"""Samples from which a kernel stays bound by operations, or by bytes, however many are added:
matrix products do so from some hundreds of rows on."""


@cached_by_settings(*TRAINING_PASS, "sequence_length")
def _ends(
    workload: Workload, kinds: Numerics, device: Device, speed: Rates, ranks: int, samples: int
) -> tuple[PassTime, PassTime]:
    """Return the time with no layer recomputed, and with all of them."""
    counted = _counted(workload, kinds, samples, device, ranks)
    kept, again = (of_model(counted, workload.model, every) for every in (0, 1))
    return timed(kept, samples, speed), timed(again, samples, speed)


def _mixed(a: PassTime, b: PassTime, share: float) -> PassTime:
    """Return the point at ``share`` of the line from one time to the other, or beyond it."""
    if share == 0:
        return a

    def between(x: float, y: float) -> float:
        return x + share * (y - x)

    return PassTime(
        products_s=between(a.products_s, b.products_s),
        elementwise_s=between(a.elementwise_s, b.elementwise_s),
        dequantize_s=between(a.dequantize_s, b.dequantize_s),
        host_copies_s=between(a.host_copies_s, b.host_copies_s),
        forward_s=between(a.forward_s, b.forward_s),
        backward_s=between(a.backward_s, b.backward_s),
        model_flops=round(between(a.model_flops, b.model_flops)),
        hardware_flops=round(between(a.hardware_flops, b.hardware_flops)),
        kernels=round(between(a.kernels, b.kernels)),
        collectives=_mixed_collectives(a.collectives, b.collectives, share),
    )


def _mixed_collectives(
    a: Collectives | None, b: Collectives | None, share: float
) -> Collectives | None:
    if a is None or b is None:
        return None
    pairs = zip(structs.astuple(a), structs.astuple(b), strict=True)
    return Collectives(*(x + share * (y - x) for x, y in pairs))


def _traced(workload: Workload, samples: int, checkpointing: int, speed: Rates) -> PassTime:
    """Return the time of a traced model's matrix products alone, by their closed form."""
    batch = Batch(micro_batch_size=samples, sequence_length=workload.settings.sequence_length)
    flops = micro_batch_flops(workload, batch, checkpointing=checkpointing)
    again = flops.backward + flops.recompute
    return PassTime(
        products_s=flops.hardware / speed.products_16_per_s,
        elementwise_s=0.0,
        dequantize_s=0.0,
        host_copies_s=0.0,
        forward_s=flops.forward / speed.products_16_per_s,
        backward_s=again / speed.products_16_per_s,
        model_flops=flops.model,
        hardware_flops=flops.hardware,
        kernels=0,
    )
