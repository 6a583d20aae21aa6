"""How the report calls methods, strategies and layouts."""

from planner.search.candidate import Candidate

STRATEGY_TITLES = {
    "single": "one device",
    "ddp": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
}
BASE_TITLES = {"nf4": "4-bit", "int8": "8-bit"}
OFFLOAD_TITLES = {
    "none": "",
    "optimizer": ", optimizer in host memory",
    "all": ", parameters and optimizer in host memory",
}
METHOD_TITLES = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}


def headline(chosen: Candidate) -> str:
    """Return how a candidate trains: method, strategy, precision, recomputation, departures."""
    ranks = chosen.layout.world_size
    where = STRATEGY_TITLES[chosen.layout.strategy]
    where = f"{where} over {ranks}" if ranks > 1 else where
    where += OFFLOAD_TITLES[chosen.layout.offload]
    recomputed = chosen.layout.recomputed
    kept = f"activations recomputed in {recomputed}" if recomputed else "activations kept"
    parts = METHOD_TITLES[chosen.method], where, _precision(chosen), kept, *chosen.departures
    return ", ".join(parts)


def _precision(chosen: Candidate) -> str:
    quantization = chosen.workload.settings.quantization
    base = "" if quantization is None else f"{BASE_TITLES[quantization.quant_type]} base, "
    pure = "pure " if chosen.workload.pure else ""
    return f"{base}{pure}{chosen.workload.compute}"


def batch_line(chosen: Candidate) -> str:
    """Return what makes a step's samples, and their length."""
    layout = chosen.layout
    ranks = f" x {layout.world_size} devices" if layout.world_size > 1 else ""
    return (
        f"micro-batch {layout.micro_batch_size} x accumulation "
        f"{layout.gradient_accumulation_steps}{ranks} = global batch {layout.global_batch_size}, "
        f"{chosen.workload.settings.sequence_length:,} tokens per sample"
    )
