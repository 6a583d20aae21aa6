"""What the report and the JSON document say of speed."""

from typing import Any

from msgspec import to_builtins

from planner.base.units import format_count, format_duration
from planner.hardware.network import networks
from planner.search.candidate import Candidate
from planner.speed.bottleneck import bottleneck_text
from planner.speed.throughput import MILLION, RunCost, Throughput

Row = tuple[str, str]
PARTS = {
    "products": "products_s",
    "memory-bound kernels": "elementwise_s",
    "unpacking weights": "dequantize_s",
    "launches": "launch_s",
    "update": "update_s",
    "communication": "exposed_communication_s",
    "offload": "offload_s",
}
SHOWN_FROM = 0.005
"""Share of a step below which a part is left out."""


def speed_rows(candidate: Candidate, price_per_gpu_hour: float | None) -> list[Row]:
    """Name and text of each line, the first named, the others below it."""
    told = candidate.throughput
    if told is None:
        return [("Speed", "unknown: no published rates for this device")]
    each = ""
    if told.ranks > 1:
        each = f", {format_count(told.tokens_per_second_per_gpu)} on each GPU"
    ratio = told.ratio
    return [
        (
            "Speed",
            f"{format_duration(told.step.total_s)} a step ({format_duration(told.low_s)} to "
            f"{format_duration(told.high_s)}), {format_count(told.tokens_per_second)} tokens/s"
            f"{each}; MFU {_percent(told.mfu)}, HFU {_percent(told.hfu)}",
        ),
        ("", _parts(told)),
        (
            "",
            f"measured over predicted {ratio.low:.2f} to {ratio.high:.2f} ({ratio.runs} "
            f"published runs on one GPU{_untested(candidate, told)})",
        ),
        ("Limited by", bottleneck_text(told.bottleneck)),
        ("A million", _cost(told.cost(MILLION, price_per_gpu_hour))),
    ]


def _untested(candidate: Candidate, told: Throughput) -> str:
    """What those runs say nothing of."""
    beyond = []
    if told.ranks > 1:
        beyond.append("links")
    if candidate.layout.offload != "none":
        beyond.append("the host")
    return f"; none of them tests {' or '.join(beyond)}" if beyond else ""


def _parts(told: Throughput) -> str:
    step = told.step
    shares = {name: getattr(step, field) / step.total_s for name, field in PARTS.items()}
    shown = [f"{name} {_percent(share)}" for name, share in shares.items() if share >= SHOWN_FROM]
    hidden = step.hidden_communication_s / step.total_s
    if hidden >= SHOWN_FROM:
        shown.append(f"beside them hidden communication {_percent(hidden)}")
    return ", ".join(shown)


def _cost(cost: RunCost) -> str:
    parts = [f"tokens take {format_duration(cost.seconds)}"]
    if cost.kilowatt_hours is not None:
        parts.append(f"at most {_figure(cost.kilowatt_hours)} kWh at the cards' power limit")
    if cost.price is not None:
        parts.append(f"{_figure(cost.price)} at the price given")
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _figure(number: float) -> str:
    """
    >>> _figure(0.01234), _figure(12.34), _figure(1234.5)
    ('0.012', '12', '1,234')
    """
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.2g}" if number < 100 else f"{number:.3g}"


def speed_document(candidate: Candidate, price_per_gpu_hour: float | None) -> dict[str, Any] | None:
    """Everything that the lines above say, as plain data; seconds are of an optimizer step."""
    told = candidate.throughput
    if told is None:
        return None
    cost, step = told.cost(MILLION, price_per_gpu_hour), told.step
    cluster = candidate.cluster
    return {
        "low_step_time_s": told.low_s,
        "high_step_time_s": told.high_s,
        "measured_over_predicted": to_builtins(told.ratio),
        "tokens_per_second_per_gpu": told.tokens_per_second_per_gpu,
        "mfu": told.mfu,
        "hfu": told.hfu,
        "parts_s": {field.removesuffix("_s"): getattr(step, field) for field in PARTS.values()},
        "hidden_communication_s": step.hidden_communication_s,
        "limited_by": {
            "name": told.bottleneck.name,
            "share": told.bottleneck.share,
            "help": told.bottleneck.help or None,
        },
        "per_million_tokens": {
            "seconds": cost.seconds,
            "kilowatt_hours": cost.kilowatt_hours,
            "price": cost.price,
        },
        "watts_per_gpu": told.watts_per_gpu,
        "network": (cluster.network or networks().reference) if cluster.num_nodes > 1 else None,
    }
