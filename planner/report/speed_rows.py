"""What the report and the JSON document say about speed."""

from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins

from planner.base.units import format_duration, format_rate, format_share
from planner.hardware.measured.own_runs import rates_source
from planner.hardware.network import networks
from planner.report.measured_words import source_words
from planner.search.candidate import Candidate
from planner.speed.bottleneck import Bottleneck
from planner.speed.throughput import MILLION, RunCost, Throughput

Row = tuple[str, str]
PARTS = {
    "matmul": "products_s",
    "memory-bound kernels": "elementwise_s",
    "dequantization": "dequantize_s",
    "kernel launches": "launch_s",
    "optimizer update": "update_s",
    "exposed communication": "exposed_communication_s",
    "offload": "offload_s",
}
"""The parts of a step's time, and the field of ``StepTime`` that has each one's seconds."""
LIMITS = {
    "compute": "matmul",
    "communication": "exposed communication",
    "host": "kernel launches, which take the host longer than the kernels run",
    "update": "the optimizer's update",
    "offload": "offloaded states and the host's update",
    "dequantization": "dequantization",
    "memory": "memory bandwidth",
}
"""The names of what a step waits for."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SHOWN_FROM = 0.005
"""Share of a step below which a part is left out."""


def speed_rows(candidate: Candidate, price_per_gpu_hour: float | None) -> list[Row]:
    """Return name and text of each line; a line without a name belongs to the one above."""
    speed = candidate.throughput
    if speed is None:
        return []
    per_gpu = ""
    if speed.ranks > 1:
        per_gpu = f"{format_rate(speed.tokens_per_second_per_gpu)} tokens/s per GPU, "
    return [
        ("Step", _parts(speed)),
        ("", f"{per_gpu}MFU {format_share(speed.mfu)}, HFU {format_share(speed.hfu)}"),
        *_certainty(candidate, speed),
        ("Limited by", _limit(speed.bottleneck)),
        ("Per 1M tokens", _cost(speed.cost(MILLION, price_per_gpu_hour))),
    ]


def _certainty(candidate: Candidate, speed: Throughput) -> list[Row]:
    """Return how far runs were from predictions, with runs on this machine and without, and where
    the rates come from."""
    ratio, published = speed.ratio, speed.published
    where = "under DeepSpeed" if candidate.layout.zero_stage else "on one GPU"
    runs = f"{published.runs} published runs {where}"
    if candidate.cluster.device == "cpu":
        runs = f"{published.runs} runs of benchmarks/regret"
    rows = [("", f"measured over predicted {ratio.low:.2f} to {ratio.high:.2f}")]
    if speed.own_ratios:
        rows[0] = ("", f"{rows[0][1]}: {_own_runs(speed.own_ratios)}")
        runs = f"without them {published.low:.2f} to {published.high:.2f} ({runs}"
        rows.append(("", f"{runs}{_untested(candidate, speed)})"))
    else:
        rows[0] = ("", f"{rows[0][1]} ({runs}{_untested(candidate, speed)})")
    source = source_words(candidate.cluster)
    return rows if source is None else [*rows, ("", source)]


def _own_runs(ratios: Sequence[float]) -> str:
    """Return the runs on this machine in words.

    >>> _own_runs((1.04, 1.07, 1.05)), _own_runs((0.98,))
    ('three runs here: 1.04 to 1.07 of predicted', 'one run here: 0.98 of predicted')
    """
    count = len(ratios)
    number = NUMBERS[count] if count < len(NUMBERS) else f"{count}"
    low, high = min(ratios), max(ratios)
    span = f"{low:.2f}" if count == 1 else f"{low:.2f} to {high:.2f}"
    return f"{number} run{'s' if count > 1 else ''} here: {span} of predicted"


def _untested(candidate: Candidate, speed: Throughput) -> str:
    """Return what of the candidate those runs do not cover, or what the high end counts."""
    if speed.slowest_s > speed.step.total_s:
        return "; the high end counts cards on two processors"
    if speed.ranks > 1 and not candidate.layout.zero_stage:
        return "; none covers communication"
    return ""


def _limit(limit: Bottleneck) -> str:
    """Return the part that limits a step, and what would help.

    >>> _limit(Bottleneck("compute", 0.7, ""))
    'matmul, 70 % of a step: the card is well used'
    """
    share = format_share(limit.share)
    return f"{LIMITS[limit.name]}, {share} of a step: {limit.help or 'the card is well used'}"


def _parts(speed: Throughput) -> str:
    step = speed.step
    shares = {name: getattr(step, field) / step.total_s for name, field in PARTS.items()}
    shown = [
        f"{name} {format_share(share)}" for name, share in shares.items() if share >= SHOWN_FROM
    ]
    hidden = step.hidden_communication_s / step.total_s
    if hidden >= SHOWN_FROM:
        shown.append(f"communication hidden behind them {format_share(hidden)}")
    return ", ".join(shown)


def _cost(cost: RunCost) -> str:
    parts = [format_duration(cost.seconds)]
    if cost.kilowatt_hours is not None:
        parts.append(f"at most {_figure(cost.kilowatt_hours)} kWh at the cards' power limit")
    if cost.price is not None:
        parts.append(f"{_figure(cost.price)} at the given price")
    return ", ".join(parts)


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
        "parts_s": {field.removesuffix("_s"): getattr(step, field) for field in PARTS.values()},
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
