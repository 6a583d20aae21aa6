"""How the report calls methods, strategies and layouts."""

from collections.abc import Iterator

from planner.base.phrases import Joined, Phrase
from planner.plan.schema import AdapterSection
from planner.plan.vocabulary import Offload, Part, Strategy
from planner.search.candidate import Candidate
from planner.workload.layout import Layout

PART_TITLES: dict[Part, str] = {
    "weights": Phrase("weights"),
    "adapters": Phrase("adapters"),
    "gradients": Phrase("gradients"),
    "optimizer_states": Phrase("optimizer states"),
    "activations": Phrase("activations"),
    "loss": Phrase("loss"),
    "workspace": Phrase("workspace"),
    "communication": Phrase("communication"),
}
STRATEGY_TITLES: dict[Strategy, str] = {
    "single": Phrase("one device"),
    "ddp": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "fsdp": "FSDP",
    "tensor": Phrase("tensor parallelism"),
}
HYBRID_FSDP = Phrase("hybrid FSDP")
"""FSDP with several copies of the parameters, which is sharded and replicated at once."""
BASE_TITLES = {"nf4": Phrase("4-bit base, "), "int8": Phrase("8-bit base, ")}
OFFLOAD_TITLES: dict[Offload, str] = {
    "none": "",
    "optimizer": Phrase(", optimizer in host memory"),
    "all": Phrase(", parameters and optimizer in host memory"),
}
METHOD_TITLES = {"qlora": "QLoRA", "lora": "LoRA", "full": Phrase("full fine-tuning")}


def strategy_title(layout: Layout) -> str:
    """Return the name of a layout's strategy."""
    return HYBRID_FSDP if layout.copies > 1 else STRATEGY_TITLES[layout.strategy]


def headline(chosen: Candidate) -> str:
    """Return how a candidate trains: method and kind of adapters, strategy, precision,
    recomputation, departures."""
    where = _where(chosen.layout, chosen.cluster.num_nodes)
    where += OFFLOAD_TITLES[chosen.layout.offload]
    shared = chosen.layout.sequence_ranks
    if shared > 1:
        where += Phrase(", {ranks} GPUs per sequence", ranks=shared)
    recomputed = chosen.layout.recomputed
    kept = (
        Phrase("{recomputed} recomputed", recomputed=recomputed)
        if recomputed
        else Phrase("activations kept")
    )
    if chosen.workload.settings.activation_offloading:
        kept += Phrase(" from the host's memory")
    if chosen.workload.settings.tiled_mlp:
        kept += Phrase(", tiled MLPs")
    method = [METHOD_TITLES[chosen.method], *_kinds_of(chosen.workload.settings.adapter)]
    return Joined(", ", (*method, where, _precision(chosen), kept, *chosen.departures))


def _kinds_of(adapter: AdapterSection | None) -> Iterator[Phrase]:
    """Yield what adapters are where they are not LoRA's own, or begin otherwise."""
    if adapter is None:
        return
    begins = "PiSSA" if adapter.init.startswith("pissa") else "OLoRA"
    kinds = {"VeRA": adapter.vera, "DoRA": adapter.dora, begins: adapter.changes_base}
    for kind, is_that in kinds.items():
        if is_that:
            yield Phrase("{kind} adapters", kind=kind)


def _where(layout: Layout, num_nodes: int) -> str:
    """Return the strategy, over how many devices, and where each copy of the parameters is."""
    where, ranks, copies = strategy_title(layout), layout.world_size, layout.copies
    if ranks > 1:
        where = Phrase("{where} over {ranks}", where=where, ranks=ranks)
    if copies == 1:
        return where
    if copies == num_nodes:
        return Phrase("{where}, sharded within each node", where=where)
    return Phrase("{where}, a copy for every {within}", where=where, within=layout.shard_ranks)


def _precision(chosen: Candidate) -> str:
    quantization = chosen.workload.settings.quantization
    base = "" if quantization is None else BASE_TITLES[quantization.quant_type]
    pure = Phrase("pure ") if chosen.workload.pure else ""
    return base + pure + chosen.workload.compute


def batch_line(chosen: Candidate) -> str:
    """Return what makes a step's samples, and their length."""
    layout = chosen.layout
    shared = layout.sequence_ranks
    num_ranks = layout.data_ranks * shared
    ranks = Phrase(" x {num_ranks} devices", num_ranks=num_ranks) if num_ranks > 1 else ""
    if shared > 1:
        ranks += Phrase(" / {shared} per sequence", shared=shared)
    return Phrase(
        "micro-batch {micro_batch_size} x accumulation {accumulated}{ranks} = "
        "global batch {global_batch_size} x {length:,} tokens",
        micro_batch_size=layout.micro_batch_size,
        accumulated=layout.gradient_accumulation_steps,
        ranks=ranks,
        global_batch_size=layout.global_batch_size,
        length=chosen.workload.settings.sequence_length,
    )
