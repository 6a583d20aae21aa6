"""Seconds of communication in an optimizer step, by strategy: hidden by compute, or exposed.

Source: Rajbhandari et al., arXiv:1910.02054, section 7, for what is sent:

    strategy   beside backward                       before or after compute, exposed
    DDP        all-reduce of gradients, in the       its last bucket
               last micro-batch of a step
    ZeRO-1     reduce-scatter of gradients, likewise  its last bucket; all-gather of updated
    ZeRO-2     the same in each micro-batch           parameters
    ZeRO-3     reduce-scatter in each micro-batch     the first gather of each pass, and what
               an all-gather in each pass             prefetching cannot hide
    FSDP       the same, by units                     the same, and the last unit's reduction
    tensor                                            all-reduces and gathers within each layer

With several copies of the parameters FSDP gathers and reduces within a copy, and in the last
micro-batch all-reduces a rank's part of each unit between the copies, on a stream of its own
(planner/memory/fsdp_phases.py): of the two rows of reductions the longer decides, and behind it is
what the last unit sends.

read: torch/nn/parallel/distributed.py at 2.13 (no_sync, which transformers' trainer uses until
the last micro-batch, and bucket_cap_mb); deepspeed/runtime/zero/stage_1_and_2.py and
partitioned_param_coordinator.py at 0.19.8: ZeRO-3 asks for one parameter more than its prefetch
bucket holds, so that a parameter is gathered while the one before it is multiplied with. FSDP
gathers a unit while the one before it runs (planner/memory/fsdp_phases.py); in backward the last
norm and the head are still there.

What is hidden still takes multiprocessors and memory bandwidth from the kernels beside it
(presets/networks.yaml has the former's share). Of n bytes a ring's
all-gather reads and writes n each, a reduce-scatter reads 2 n and writes n; DeepSpeed copies
gradients into its buckets, and what ZeRO-3 has gathered out of them (partition_parameters.py,
AllGatherCoalescedHandle.wait), as FSDP does; it casts gradients into its buffers.
"""

from collections.abc import Iterator

from msgspec import Struct

from planner.base.units import MIB, ceil_div
from planner.hardware.network import Ranks, split_ranks
from planner.models.layer_kinds import LayerKind
from planner.models.model_spec import ModelSpec
from planner.plan.vocabulary import SHARDS_PARAMETERS, Strategy
from planner.speed.pass_time import Collectives, PassTime
from planner.workload.dtypes import Numerics
from planner.workload.fsdp_units import fsdp_units
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.workload import Workload
from planner.workload.zero_sizes import zero_sizes

DDP_BUCKET_BYTES = 25 * MIB
"""Bytes of a bucket; read: torch/nn/parallel/distributed.py at 2.13, bucket_cap_mb."""
COPY, GATHER, REDUCE = 2, 2, 3
"""Times that a tensor's bytes pass the memory in a copy, a gather and a reduction; see above."""


class Sent(Struct, frozen=True):
    """Seconds of communication in an optimizer step."""

    exposed_s: float
    """Seconds beside no compute, and seconds that communication takes from the compute
    beside it."""
    hidden_s: float
    """Seconds beside compute."""


NOTHING = Sent(0.0, 0.0)


class Gather(Struct, frozen=True):
    """One all-gather of ZeRO-3 or FSDP in a row of layers that are alike."""

    seconds: float
    before: float
    """Share of the pass's work done since the previous gather was requested."""
    times: int


class Communication:
    """One workload's communication under one strategy; what does not depend on the batch is
    computed once."""

    def __init__(
        self,
        workload: Workload,
        kinds: Numerics,
        strategy: Strategy,
        ranks: Ranks,
        bandwidth_bytes_per_s: float,
        copies: int = 1,
    ) -> None:
        self._copies = None
        if copies > 1:
            ranks, self._copies = split_ranks(ranks, copies)
        self._strategy, self._ranks = strategy, ranks
        self._bandwidth = bandwidth_bytes_per_s
        model, trained = workload.model, workload.trainable_params
        zero = zero_sizes(model.hidden_size, model.largest_layer_params)
        self._gradients = trained * kinds.gradient
        self._updated = trained * kinds.trainable
        if strategy == "ddp":
            buckets = ceil_div(self._gradients, DDP_BUCKET_BYTES)
            self._bucket_s = ranks.all_reduce_s(self._gradients / buckets)
        else:
            buckets = ceil_div(trained, zero.reduce_bucket_size)
            self._bucket_s = ranks.reduce_s(self._gradients / buckets)
        self._reduced_s = buckets * self._bucket_s
        gathers = ceil_div(trained, zero.allgather_bucket_size)
        self._updated_s = gathers * ranks.pass_s(self._updated / gathers)
        self._gathered = 0
        self._forward: list[Gather] = []
        self._backward: list[Gather] = []
        self._copied = COPY * self._gradients
        self._summed = 0
        self._summed_s = self._last_summed_s = 0.0
        if strategy == "zero3":
            self._plan_gathers(workload, kinds.compute, zero.param_persistence_threshold)
        if strategy == "fsdp":
            self._plan_units(workload, kinds)

    def of_step(self, passed: PassTime, micro_batches: int) -> Sent:
        """Return seconds of one optimizer step by the table at the top of this module."""
        if self._strategy == "ddp":
            late = self._late(passed.backward_s, 1)
            passes = (GATHER + REDUCE) * self._gradients
            return self._sent(late, self._reduced_s, passes)
        if self._strategy in SHARDS_PARAMETERS:
            return self._gathering(passed, micro_batches)
        times = micro_batches if self._strategy == "zero2" else 1
        late = self._late(passed.backward_s, times) + self._updated_s
        passes = times * (COPY + REDUCE) * self._gradients
        return self._sent(late, times * self._reduced_s + self._updated_s, passes)

    def _late(self, work_s: float, times: int) -> float:
        """Return exposed seconds of reductions that run beside work, the last bucket included."""
        behind = max(self._reduced_s - self._bucket_s - work_s, 0.0)
        return times * (behind + self._bucket_s)

    def _sent(self, late_s: float, all_s: float, memory_bytes: float) -> Sent:
        hidden_s = max(all_s - late_s, 0.0)
        taken_s = memory_bytes / self._bandwidth + hidden_s * self._ranks.links.busy_share
        return Sent(late_s + taken_s, hidden_s)

    def _gathering(self, passed: PassTime, micro_batches: int) -> Sent:
        """Return seconds of ZeRO-3 or FSDP: both passes gather each parameter that is not
        there."""
        forward_s = _waits(self._forward, passed.forward_s)
        backward_s = _waits(self._backward, passed.backward_s)
        gathers_s = sum(gather.times * gather.seconds for gather in self._backward)
        spare_s = max(passed.backward_s - (gathers_s - backward_s), 0.0)
        late = forward_s + backward_s + self._late(spare_s, 1)
        passes = (COPY + GATHER) * self._gathered + self._copied + REDUCE * self._gradients
        all_s = sum(gather.times * gather.seconds for gather in self._forward)
        all_s += gathers_s + self._reduced_s
        if self._copies is None:
            return self._sent(micro_batches * late, micro_batches * all_s, micro_batches * passes)
        return self._sent(
            micro_batches * late + self._later_by_copies(spare_s),
            micro_batches * all_s + self._summed_s,
            micro_batches * passes + (GATHER + REDUCE) * self._summed,
        )

    def _later_by_copies(self, work_s: float) -> float:
        """Return how many seconds later the last micro-batch of a step ends for the sums over all
        copies, which run beside its reductions within a copy."""
        within = self._reduced_s - self._bucket_s
        between = self._summed_s - self._last_summed_s
        behind = max(within, between, work_s) - max(within, work_s)
        return behind + self._last_summed_s

    def _plan_gathers(self, workload: Workload, width: int, threshold: int) -> None:
        runs = list(_runs(workload, threshold))
        whole = sum(times * sum(sizes) for sizes, times in runs)
        self._gathered = 2 * whole * width
        self._forward = self._gathers(runs, width, whole)
        self._backward = self._gathers([(sizes[::-1], n) for sizes, n in runs[::-1]], width, whole)

    def _plan_units(self, workload: Workload, kinds: Numerics) -> None:
        """Plan the gathers and reductions of FSDP's units; a unit's share of the work is taken for
        its share of what is gathered."""
        units = fsdp_units(workload, self._ranks.count, kinds)
        tied = units.embedding.buffer_bytes == 0
        first = units.tail if tied else units.embedding
        order = [first, *units.layers, *([] if tied else [units.tail])]
        forward = [unit.buffer_bytes for unit in order]
        backward = [unit.buffer_bytes for unit in reversed(units.layers)]
        whole = sum(forward)
        self._forward = self._gathers([(forward, 1)], 1, whole)
        self._backward = self._gathers([(backward, 1)], 1, whole)
        self._gathered = whole + sum(backward)
        reduced = [unit.reduced_bytes for unit in order if unit.reduced_bytes]
        times = [self._ranks.reduce_s(num_bytes) for num_bytes in reduced]
        self._reduced_s, self._bucket_s = sum(times), times[0]
        self._gradients = sum(reduced)
        if self._copies is not None:
            parts = [num_bytes // self._ranks.count for num_bytes in reduced]
            sums = [self._copies.all_reduce_s(num_bytes) for num_bytes in parts]
            self._summed, self._summed_s, self._last_summed_s = sum(parts), sum(sums), sums[0]
        self._copied = workload.trainable_params * (kinds.gradient + kinds.home)

    def _gathers(self, runs: list[tuple[list[int], int]], width: int, whole: int) -> list[Gather]:
        """Return the gathers in order; each overlaps with the work on the parameter before it."""
        found, last = list[Gather](), 0
        for sizes, times in runs:
            for position, size in enumerate(sizes):
                seconds = self._ranks.pass_s(size * width)
                before = sizes[position - 1] / whole
                found.append(Gather(seconds, before if position else last / whole, 1))
                if times > 1:
                    found.append(Gather(seconds, before, times - 1))
            last = sizes[-1]
        return found


@cached_by_settings(*TRAINED)
def communication(
    workload: Workload,
    kinds: Numerics,
    strategy: Strategy,
    ranks: Ranks,
    bandwidth_bytes_per_s: float,
    copies: int,
) -> Communication:
    """Return the communication of one workload under one strategy."""
    return Communication(workload, kinds, strategy, ranks, bandwidth_bytes_per_s, copies)


def within_layers(sent: Collectives, ranks: Ranks, micro_batches: int) -> Sent:
    """Return seconds of what ranks send that compute each layer together. The next operator waits
    for each of it, so that none is hidden; a collective takes a time to start and one that grows
    with its bytes, and so all together what as many of their mean size do."""
    seconds = 0.0
    if sent.all_reduces:
        mean = sent.all_reduced_bytes / sent.all_reduces
        seconds += sent.all_reduces * ranks.all_reduce_s(mean)
    if sent.all_gathers:
        mean = sent.all_gathered_bytes / sent.all_gathers
        seconds += sent.all_gathers * ranks.pass_s(mean)
    return Sent(micro_batches * seconds, 0.0)


def _waits(gathers: list[Gather], work_s: float) -> float:
    """Return seconds of gathers that no work hides; before the first one there is no work."""
    return sum(each.times * max(each.seconds - each.before * work_s, 0.0) for each in gathers)


def _runs(workload: Workload, threshold: int) -> Iterator[tuple[list[int], int]]:
    """Yield the sizes in elements of gathered parameters and the number of layers that have them:
    the embedding, each kind of layer, the head."""
    model = workload.model
    yield [model.embedding_params], 1
    for kind, number in model.kinds.items():
        large = [size for size in gathered_sizes(model, kind) if size > threshold]
        if large:
            yield large, number
    if not model.tied_embeddings:
        yield [model.embedding_params], 1


def gathered_sizes(model: ModelSpec, kind: LayerKind) -> list[int]:
    """Return the elements of each matrix of a layer, and of each tensor of its experts."""
    sizes = [linear.weight_params for linear in model.linears(kind)]
    if kind.routed and model.experts is not None:
        sizes += model.experts.expert_tensors(model.hidden_size).values()
    return sizes
