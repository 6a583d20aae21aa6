"""What would make a plan faster or leaner: each change is priced, and only one that tells is kept.

No function has side effects. The changes are those that the planner does not make by itself, since
they cost something it cannot weigh: other results, other hardware, another method.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from planner.base.phrases import Phrase
from planner.decision.alternatives import Alternative
from planner.decision.epochs import ranking_run_time_s
from planner.decision.packing import PackedWay
from planner.decision.request import Request
from planner.hardware.cluster import MOST_PER_HOST
from planner.models.traced_model import TracedSpec
from planner.plan.vocabulary import METHOD_NAMES, METHODS, SHARES_SAMPLES
from planner.search.candidate import Candidate

TOLD_SPEED = 0.01
"""Share of the speed from which a gain is told."""
TOLD_MEMORY = 0.01
"""Share of a device's budget from which a saving is told."""
MOST_SHOWN = 5


class Improvement(Struct, frozen=True):
    """A change of a plan, and what it changes."""

    change: Phrase
    option: str
    """Option of ``plan`` that makes it."""
    memory_bytes: int
    """Bytes of one device in the worst case that it adds, negative where it saves."""
    speed: float
    """Share of the speed that it adds, negative where it is slower."""


def improvements(
    request: Request,
    chosen: Candidate,
    others: Sequence[Alternative],
    packed: PackedWay | None,
) -> list[Improvement]:
    """Return the changes that tell, the best first: by speed, those that cost memory or time last.

    A traced model has none, since each would be a trace.
    """
    if isinstance(request.model.spec, TracedSpec):
        return []
    found = [
        *_without_dropout(request, chosen),
        *_larger_batch(request, chosen),
        *_packed(request, chosen, packed),
        *_twice_the_cards(request, chosen),
        *_other_recomputation(chosen, others),
    ]
    telling = [each for each in found if _tells(request, each)]
    telling += _richer_methods(chosen, others)
    return sorted(telling, key=lambda each: (each.speed < 0, -each.speed))[:MOST_SHOWN]


def _tells(request: Request, change: Improvement) -> bool:
    saved = -change.memory_bytes / request.budget_bytes
    return change.speed >= TOLD_SPEED or saved >= TOLD_MEMORY


def _compared(change: Phrase, option: str, other: Candidate, chosen: Candidate) -> Improvement:
    """Return a change by the candidate that it leads to."""
    per_token = other.usual_time_s / other.tokens_per_step
    return Improvement(
        change=change,
        option=option,
        memory_bytes=other.memory.high_bytes - chosen.memory.high_bytes,
        speed=chosen.usual_time_s / chosen.tokens_per_step / per_token - 1,
    )


def _without_dropout(request: Request, chosen: Candidate) -> Iterator[Improvement]:
    adapter = chosen.workload.settings.adapter
    if adapter is None or not adapter.dropout:
        return
    without = chosen.workload.with_settings(adapter=structs.replace(adapter, dropout=0.0))
    words = Phrase("LoRA dropout 0, was {dropout:g}", dropout=adapter.dropout)
    other = structs.replace(chosen, workload=without)
    if other.fits(request.budget_bytes):
        yield _compared(words, "--lora-dropout 0", other, chosen)


def _larger_batch(request: Request, chosen: Candidate) -> Iterator[Improvement]:
    """Yield twice the samples of a step, in larger micro-batches where they are whole and fit."""
    layout, samples = chosen.layout, 2 * chosen.layout.global_batch_size
    work = chosen.workload.with_settings(global_batch_size=samples)
    accumulated = structs.replace(
        layout, gradient_accumulation_steps=2 * layout.gradient_accumulation_steps
    )
    merged = structs.replace(layout, micro_batch_size=2 * layout.micro_batch_size)
    words = Phrase("global batch {samples}, was {before}", samples=samples, before=samples // 2)
    for each in (
        (merged, accumulated) if layout.gradient_accumulation_steps == 1 else (accumulated,)
    ):
        other = structs.replace(chosen, workload=work, layout=each)
        if other.fits(request.budget_bytes):
            yield _compared(words, f"--global-batch-size {samples}", other, chosen)
            return


def _packed(request: Request, chosen: Candidate, packed: PackedWay | None) -> Iterator[Improvement]:
    if packed is None or packed.candidate is None or request.data is None:
        return
    other, data = packed.candidate, request.data.known
    if data is not None:
        yield Improvement(
            change=Phrase("several samples packed into a sequence"),
            option="--packing",
            memory_bytes=other.memory.high_bytes - chosen.memory.high_bytes,
            speed=ranking_run_time_s(chosen, data) / ranking_run_time_s(other, data) - 1,
        )


def _twice_the_cards(request: Request, chosen: Candidate) -> Iterator[Improvement]:
    """Yield twice the cards of one node where most hosts hold so many, each with the same
    micro-batches under the same strategy: at least as fast is what the planner would choose
    there."""
    cluster, layout = request.cluster, chosen.layout
    card, steps = cluster.accelerator, layout.gradient_accumulation_steps
    alone = cluster.device == "cpu" or card.is_slice or card.unified_memory
    count = 2 * cluster.gpus_per_node
    if alone or cluster.num_nodes > 1 or steps % 2 or count > MOST_PER_HOST:
        return
    if layout.strategy in SHARES_SAMPLES:
        return  # further cards take no samples over
    more = structs.replace(
        cluster,
        gpus_per_node=count,
        link="pcie" if cluster.link == "none" else cluster.link,
        link_bytes_per_s=cluster.link_bytes_per_s or _pcie_bytes_per_s(request),
    )
    spread = structs.replace(
        layout,
        strategy="ddp" if layout.strategy == "single" else layout.strategy,
        world_size=count,
        gradient_accumulation_steps=steps // 2,
    )
    other = structs.replace(chosen, cluster=more, layout=spread)
    words = Phrase("{count} such cards", count=count)
    if other.fits(request.budget_bytes):
        yield _compared(
            words, f"--gpus {count}x{card.label} --method {chosen.method}", other, chosen
        )


def _pcie_bytes_per_s(request: Request) -> int | None:
    card = request.cluster.accelerator.speed
    return None if card is None else card.pcie_bytes_per_s


def _richer_methods(chosen: Candidate, others: Sequence[Alternative]) -> Iterator[Improvement]:
    """Yield the richer methods that fit, which are worth more than their memory and speed say."""
    for other in (each.candidate for each in others if each.fits):
        if METHODS.index(other.method) > METHODS.index(chosen.method):
            words = Phrase(
                "{method} instead of {before}",
                method=METHOD_NAMES[other.method],
                before=METHOD_NAMES[chosen.method],
            )
            yield _compared(words, f"--method {other.method}", other, chosen)


def _other_recomputation(chosen: Candidate, others: Sequence[Alternative]) -> Iterator[Improvement]:
    """Yield the chosen method and strategy with more or fewer layers recomputed."""
    for other in (each.candidate for each in others if each.fits):
        same = other.method == chosen.method and other.layout.sharding == chosen.layout.sharding
        if same and other.layout.checkpointing != chosen.layout.checkpointing:
            yield _recomputing(other, chosen)


def _recomputing(other: Candidate, chosen: Candidate) -> Improvement:
    recomputed, every = other.layout.recomputed, other.layout.checkpointing
    if not every:
        words = Phrase("all activations kept")
        return _compared(words, "--no-activation-checkpointing", other, chosen)
    words = Phrase("{recomputed} recomputed", recomputed=recomputed)
    return _compared(words, f"--checkpoint-every {every}", other, chosen)
