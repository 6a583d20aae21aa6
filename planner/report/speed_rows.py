"""What the report and the JSON document say about speed."""

from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins

from planner.base.phrases import Joined, Phrase
from planner.base.units import format_duration, format_rate, format_share
from planner.hardware.measured.own_runs import rates_source
from planner.hardware.network import networks
from planner.report.measured_words import source_words
from planner.search.candidate import Candidate
from planner.speed.bottleneck import Bottleneck
from planner.speed.throughput import MILLION, RunCost, Throughput

Row = tuple[str, str]
PARTS = {
    "products_s": Phrase("matmul"),
    "elementwise_s": Phrase("memory-bound kernels"),
    "dequantize_s": Phrase("dequantization"),
    "launch_s": Phrase("kernel launches"),
    "update_s": Phrase("optimizer update"),
    "exposed_communication_s": Phrase("exposed communication"),
    "offload_s": Phrase("offload"),
}
"""The parts of a step's time, by the field of ``StepTime`` that has their seconds."""
LIMITS = {
    "compute": Phrase("matmul"),
    "communication": Phrase("exposed communication"),
    "host": Phrase("kernel launches, which take the host longer than the kernels run"),
    "update": Phrase("the optimizer's update"),
    "offload": Phrase("copies to and from the host, and its update"),
    "dequantization": Phrase("dequantization"),
    "memory": Phrase("memory bandwidth"),
}
"""The names of what a step waits for."""
SHOWN_FROM = 0.005
"""Share of a step below which a part is left out."""


def speed_rows(candidate: Candidate, price_per_gpu_hour: float | None) -> list[Row]:
    """Return name and text of each line; a line without a name belongs to the one above."""
    speed = candidate.throughput
    if speed is None:
        return []
    per_gpu = ""
    if speed.ranks > 1:
        rate = format_rate(speed.tokens_per_second_per_gpu)
        per_gpu = Phrase("{rate} tokens/s per GPU, ", rate=rate)
    used = Phrase(
        "{per_gpu}MFU {mfu}, HFU {hfu}",
        per_gpu=per_gpu,
        mfu=format_share(speed.mfu),
        hfu=format_share(speed.hfu),
    )
    return [
        (Phrase("Step"), _parts(speed)),
        ("", used),
        *_certainty(candidate, speed),
        (Phrase("Limited by"), _limit(speed.bottleneck)),
        (Phrase("Per 1M tokens"), _cost(speed.cost(MILLION, price_per_gpu_hour))),
    ]


def _certainty(candidate: Candidate, speed: Throughput) -> list[Row]:
    """Return how far runs were from predictions, with runs on this machine and without, and where
    the rates come from."""
    ratio, published = speed.ratio, speed.published
    rows: list[Row]
    runs = _published_runs(candidate, published.runs) + _untested(candidate, speed)
    if speed.own_ratios:
        narrowed = Phrase(
            "measured over predicted {low:.2f} to {high:.2f}: {own}",
            low=ratio.low,
            high=ratio.high,
            own=_own_runs(speed.own_ratios),
        )
        without = Phrase(
            "without them {low:.2f} to {high:.2f} ({runs})",
            low=published.low,
            high=published.high,
            runs=runs,
        )
        rows = [("", narrowed), ("", without)]
    else:
        told = Phrase(
            "measured over predicted {low:.2f} to {high:.2f} ({runs})",
            low=ratio.low,
            high=ratio.high,
            runs=runs,
        )
        rows = [("", told)]
    source = source_words(candidate.cluster)
    return rows if source is None else [*rows, ("", source)]


def _published_runs(candidate: Candidate, runs: int) -> Phrase:
    if candidate.cluster.device == "cpu":
        return Phrase("{runs} {runs[run|runs]} of benchmarks/regret", runs=runs)
    where = Phrase("under DeepSpeed") if candidate.layout.is_sharded else Phrase("on one GPU")
    return Phrase("{runs} published {runs[run|runs]} {where}", runs=runs, where=where)


def _own_runs(ratios: Sequence[float]) -> Phrase:
    """Return the runs on this machine in words.

    >>> _own_runs((1.04, 1.07, 1.05)), _own_runs((0.98,))
    ('3 runs here: 1.04 to 1.07 of predicted', '1 run here: 0.98 of predicted')
    """
    count, low, high = len(ratios), min(ratios), max(ratios)
    if count == 1:
        return Phrase("1 run here: {ratio:.2f} of predicted", ratio=low)
    return Phrase(
        "{count} runs here: {low:.2f} to {high:.2f} of predicted", count=count, low=low, high=high
    )


def _untested(candidate: Candidate, speed: Throughput) -> str:
    """Return what of the candidate those runs do not cover, or what the high end counts."""
    if speed.slowest_s > speed.step.total_s:
        return Phrase("; the high end counts cards on two processors")
    if candidate.layout.strategy == "fsdp":
        return Phrase("; none ran under FSDP")
    if candidate.layout.strategy == "tensor":
        return Phrase("; none ran with tensor parallelism")
    if speed.ranks > 1 and not candidate.layout.zero_stage:
        return Phrase("; none covers communication")
    return ""


def _limit(limit: Bottleneck) -> str:
    """Return the part that limits a step, and what would help.

    >>> _limit(Bottleneck("compute", 0.7, ""))
    'matmul, 70 % of a step: the card is well used'
    """
    share = format_share(limit.share)
    return Phrase(
        "{limit}, {share} of a step: {help}",
        limit=LIMITS[limit.name],
        share=share,
        help=limit.help or Phrase("the card is well used"),
    )


def _parts(speed: Throughput) -> str:
    step = speed.step
    shares = {name: getattr(step, field) / step.total_s for field, name in PARTS.items()}
    shown = [
        name + f" {format_share(share)}" for name, share in shares.items() if share >= SHOWN_FROM
    ]
    hidden = step.hidden_communication_s / step.total_s
    if hidden >= SHOWN_FROM:
        shown.append(Phrase("communication hidden behind them {share}", share=format_share(hidden)))
    return Joined(", ", shown)


def _cost(cost: RunCost) -> str:
    parts = [format_duration(cost.seconds)]
    if cost.kilowatt_hours is not None:
        parts.append(
            Phrase(
                "at most {energy} kWh at the cards' power limit",
                energy=_figure(cost.kilowatt_hours),
            )
        )
    if cost.price is not None:
        parts.append(Phrase("{price} at the given price", price=_figure(cost.price)))
    return Joined(", ", parts)


def _figure(number: float) -> str:
    """Return two or three significant digits.

    >>> _figure(0.01234), _figure(12.34), _figure(1234.5)
    ('0.012', '12', '1,234')
    """
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.2g}" if number < 100 else f"{number:.3g}"


def speed_document(candidate: Candidate, price_per_gpu_hour: float | None) -> dict[str, Any] | None:
    """Return the same as plain data, seconds per optimizer step; None without published rates."""
    speed = candidate.throughput
    if speed is None:
        return None
    cost, step = speed.cost(MILLION, price_per_gpu_hour), speed.step
    cluster = candidate.cluster
    return {
        "low_step_time_s": speed.low_s,
        "high_step_time_s": speed.high_s,
        "measured_over_predicted": to_builtins(speed.ratio),
        "without_own_runs": to_builtins(speed.published),
        "own_runs": list(speed.own_ratios),
        "rates_measured_on": rates_source(cluster),
        "tokens_per_second_per_gpu": speed.tokens_per_second_per_gpu,
        "mfu": speed.mfu,
        "hfu": speed.hfu,
        "parts_s": {field.removesuffix("_s"): getattr(step, field) for field in PARTS},
        "hidden_communication_s": step.hidden_communication_s,
        "limited_by": {
            "name": speed.bottleneck.name,
            "share": speed.bottleneck.share,
            "help": speed.bottleneck.help or None,
        },
        "per_million_tokens": {
            "seconds": cost.seconds,
            "kilowatt_hours": cost.kilowatt_hours,
            "price": cost.price,
        },
        "watts_per_gpu": speed.watts_per_gpu,
        "network": (cluster.network or networks().reference) if cluster.num_nodes > 1 else None,
    }
