"""Where the time of a step goes on every rank, and what keeps the devices from being busy.

A step of a rank is waiting for data, forward, backward, update and the rest. Communication and
waiting for other ranks happen outside of the passes, where ranks tell each other of tokens, buffers
and the loss, and inside the backward pass, where gradients are reduced. All of the former counts,
and what the latter takes beyond a multiple of the forward pass: the predicted one, or that of the
rank which waits least where it is smaller. The least of it over all ranks is communication; what a
rank has beyond that is waiting for a slower rank: for its data, for its host between two steps, or
for its device.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from planner.base.phrases import Phrase, as_data
from planner.base.units import format_share

NAMED_FROM = 0.1
"""Share of a step from which a loss is named."""
BEYOND_PREDICTED = 1.5
"""Multiple of the predicted communication from which a link is called slow."""
HOST_FROM = 0.2
"""Share of a predicted step from which launches of kernels are named, as in a plan's report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankParts:
    """Seconds of a step of one rank, means of the logged steps."""

    data_s: float
    """Seconds of waiting for a batch."""
    forward_s: float
    agreement_s: float = 0.0
    """Seconds outside of the passes in which ranks tell each other of tokens, buffers and the
    loss."""
    backward_s: float
    """Seconds of the backward pass, communication and waiting for other ranks included."""
    update_s: float
    other_s: float
    """Seconds between a step and the next without waiting for data: callbacks and logs."""

    @property
    def total_s(self) -> float:
        """Seconds of the whole step."""
        passes_s = self.forward_s + self.agreement_s + self.backward_s
        return self.data_s + passes_s + self.update_s + self.other_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedParts:
    """What the plan predicts of a step, as far as it says so."""

    backward_over_forward: float
    communication_share: float
    launch_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Time of a step in which devices do not compute, its cause and what would help."""

    cause: str
    """``data``, ``slow rank``, ``late rank``, ``slow link``, ``launches`` or ``saving``."""
    share: float
    """Share of a step."""
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return what a report has of it; ``phrase`` is the text for other languages."""
        return {**asdict(self), "phrase": as_data(self.text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTimes:
    """Where a rank's step goes, in seconds."""

    compute_s: float
    data_s: float
    communication_s: float
    waiting_s: float
    """Seconds of waiting for a slower rank."""
    other_s: float


def rank_times(ranks: Sequence[RankParts], predicted: PredictedParts) -> list[RankTimes]:
    """Return where the step of every rank goes, in rank order."""
    seen = [rank.backward_s / rank.forward_s for rank in ranks if rank.forward_s]
    multiple = min([predicted.backward_over_forward, *seen])
    beyond = [
        rank.agreement_s + max(0.0, rank.backward_s - multiple * rank.forward_s)
        if len(ranks) > 1
        else 0.0
        for rank in ranks
    ]
    shared = min(beyond)
    return [
        RankTimes(
            compute_s=rank.total_s - more - rank.data_s - rank.other_s,
            data_s=rank.data_s,
            communication_s=shared,
            waiting_s=more - shared,
            other_s=rank.other_s,
        )
        for rank, more in zip(ranks, beyond, strict=True)
    ]


def losses_of(
    ranks: Sequence[RankParts], predicted: PredictedParts, *, saving_share: float = 0.0
) -> list[Loss]:
    """Return what keeps devices idle, the largest first; empty where nothing is worth a line."""
    times = rank_times(ranks, predicted)
    step_s = max(rank.total_s for rank in ranks)
    if step_s <= 0:
        return []
    found = [
        _data(times, step_s),
        *_slow_rank(times, step_s),
        _slow_link(times, step_s, predicted),
        _launches(predicted),
        _saving(saving_share),
    ]
    named = [loss for loss in found if loss is not None]
    return sorted(named, key=lambda loss: -loss.share)


def _data(times: Sequence[RankTimes], step_s: float) -> Loss | None:
    waits = [rank.data_s for rank in times]
    share = max(waits) / step_s
    if share < NAMED_FROM:
        return None
    where = ""
    if len(waits) > 1 and min(waits) < max(waits) / 2:
        where = Phrase(" on rank {index}", index=waits.index(max(waits)))
    return Loss(
        cause="data",
        share=share,
        text=Phrase(
            "waiting for data{where} takes {share} of a step: move the prepared data to "
            "a faster disk (XDG_CACHE_HOME), or leave the processor to the run",
            where=where,
            share=format_share(share),
        ),
    )


def _slow_rank(times: Sequence[RankTimes], step_s: float) -> list[Loss]:
    """Return what others wait for on the rank that waits least, but for its data."""
    slow = min(range(len(times)), key=lambda rank: times[rank].waiting_s)
    waits = max(times, key=lambda rank: rank.waiting_s)
    for_data_s = max(0.0, times[slow].data_s - waits.data_s)
    for_host_s = max(0.0, times[slow].other_s - waits.other_s)
    for_device_s = waits.waiting_s - for_data_s - for_host_s
    found = (
        _slow_device(slow, for_device_s / step_s),
        _late_host(slow, min(for_host_s, waits.waiting_s) / step_s),
    )
    return [loss for loss in found if loss.share >= NAMED_FROM]


def _slow_device(rank: int, share: float) -> Loss:
    return Loss(
        cause="slow rank",
        share=share,
        text=Phrase(
            "rank {slow} is slower: others wait for it {share} of a step. Look for "
            "another program on its device, for heat and power limits (launch --doctor), "
            "or leave the device out",
            slow=rank,
            share=format_share(share),
        ),
    )


def _late_host(rank: int, share: float) -> Loss:
    return Loss(
        cause="late rank",
        share=share,
        text=Phrase(
            "rank {late} is late between two steps: others wait for its host {share} of a step. "
            "Look for another program on that host, and for a slow tracker (training.report_to)",
            late=rank,
            share=format_share(share),
        ),
    )


def _slow_link(times: Sequence[RankTimes], step_s: float, predicted: PredictedParts) -> Loss | None:
    share = times[0].communication_s / step_s
    if share < max(NAMED_FROM, BEYOND_PREDICTED * predicted.communication_share):
        return None
    expected = format_share(predicted.communication_share)
    return Loss(
        cause="slow link",
        share=share,
        text=Phrase(
            "communication takes {share} of a step, predicted {expected}: check the link "
            "between the devices (nvidia-smi topo -m, NCCL_DEBUG=INFO), or accumulate "
            "more micro-batches per step",
            share=format_share(share),
            expected=expected,
        ),
    )


def _launches(predicted: PredictedParts) -> Loss | None:
    share = predicted.launch_share
    if share < HOST_FROM:
        return None
    return Loss(
        cause="launches",
        share=share,
        text=Phrase(
            "launching kernels takes the host {share} of a step by the plan: a larger "
            "micro-batch or longer samples (packing) keep the device busy",
            share=format_share(share),
        ),
    )


def _saving(share: float) -> Loss | None:
    if share < NAMED_FROM:
        return None
    return Loss(
        cause="saving",
        share=share,
        text=Phrase(
            "saving takes {share} of the run: raise training.save_steps, or save to a faster disk",
            share=format_share(share),
        ),
    )
