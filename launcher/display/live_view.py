"""A running training as a frame for terminals, and as a line for pipes. No side effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from launcher.display.curve import sparkline
from launcher.display.sensors import Gauge
from launcher.display.utilisation import Loss
from planner.base.phrases import Joined, Phrase, spoken
from planner.base.units import GIB, format_duration, format_gib
from planner.plan.schema import Plan

LABEL_WIDTH = 14
SPARK_WIDTH = 24
WIDEST = 110
"""Columns of the widest frame: longer lines are hard to read."""
LEAST_BAR = 12
"""Columns of the shortest memory bar."""
MEMORY_WIDTH = 48
"""Columns of a device's row without its bar: label, three figures and gaps."""
MEMORY_AND_HEAT_WIDTH = MEMORY_WIDTH + 13
"""Columns of such a row with temperature and power."""
UNKNOWN = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the plan predicts for one device or process."""

    title: str
    """Model, method and machine, in words."""
    what: str
    """Kind of the memory: in use or resident."""
    low_bytes: int
    high_bytes: int
    capacity_bytes: int
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run at one moment."""

    expected: Expected
    step: int
    num_steps: int
    elapsed_s: float
    left_s: float | None
    """Expected seconds to the end; None before two steps have been seen."""
    losses: Sequence[float]
    """Losses of the whole run, as means of neighbours if there are many."""
    first_loss: float | None
    least_loss: float | None
    metrics: Mapping[str, float]
    """Metrics of the last logged step; empty before the first."""
    gauges: Sequence[Gauge]
    idle: Loss | None = None
    """What keeps the devices idle most, if it is worth a line."""


METHOD_NAMES = {"qlora": "QLoRA", "lora": "LoRA", "full": Phrase("full fine-tuning")}


def expected_of(plan: Plan) -> Expected:
    """Return what the plan predicts: of a GPU the driver's figure, else the process's memory."""
    devices, prediction = plan.parallel.world_size, plan.prediction
    on_gpu = plan.hardware.device == "cuda"
    where = plan.hardware.device_name
    return Expected(
        title=Phrase(
            "{model}, {method} on {machine}",
            model=plan.model.name,
            method=METHOD_NAMES[plan.method],
            machine=where if devices == 1 else f"{devices} x {where}",
        ),
        what=Phrase("in use, GiB") if on_gpu else Phrase("resident, GiB"),
        low_bytes=prediction.low_bytes,
        high_bytes=prediction.high_bytes,
        capacity_bytes=plan.hardware.capacity_bytes,
        tokens_per_second=prediction.tokens_per_second,
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """A view drawn in the width and the characters of the terminal."""

    view: View

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        ascii_only = options.ascii_only
        yield Text("")
        yield Group(
            Text(spoken(self.view.expected.title), style="bold", no_wrap=True, overflow="ellipsis"),
            _progress(self.view, width, ascii_only=ascii_only),
            Text(""),
            _figures(self.view, width, ascii_only=ascii_only),
            Text(""),
            _memory(self.view, width, ascii_only=ascii_only),
            Text(""),
            *(
                []
                if self.view.idle is None
                else [Text(spoken(self.view.idle.text), style="yellow")]
            ),
        )


def _progress(view: View, width: int, *, ascii_only: bool) -> Text:
    step, total = view.step, max(1, view.num_steps)
    share, left = step / total, left_words(view)
    words = spoken(
        Phrase(
            "step {step:,} of {num_steps:,}  {share:4.0%}  {left}",
            step=step,
            num_steps=view.num_steps,
            share=share,
            left=left,
        )
    )
    filled, empty = "=-" if ascii_only else "━─"
    cells = max(10, width - cell_len(words) - 2)
    reached = min(cells, cells * step // total)
    bar = Text(filled * reached, style="green", no_wrap=True).append(
        empty * (cells - reached), style="dim"
    )
    return bar.append(f"  {words}", style="default")


def left_words(view: View) -> str:
    """Return the time that is left, or that has passed, in words."""
    if view.left_s is None:
        return Phrase("{duration} so far", duration=format_duration(view.elapsed_s))
    if view.step >= view.num_steps:
        return Phrase("took {duration}", duration=format_duration(view.elapsed_s))
    return Phrase("{duration} left", duration=format_duration(view.left_s))


def _figures(view: View, width: int, *, ascii_only: bool) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=LABEL_WIDTH, style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="dim")
    metrics = view.metrics
    cells = min(SPARK_WIDTH, max(8, width - 56))
    spark = sparkline(view.losses, width=cells, ascii_only=ascii_only)
    loss = Text(f"{number(metrics.get('loss'), '.4f'):<8}", style="bold")
    grid.add_row(Phrase("loss"), loss.append(f"{spark:<{cells}}", style="cyan"), _loss_words(view))
    rate, norm = (
        number(metrics.get("learning_rate"), ".2e"),
        number(metrics.get("grad_norm"), ".3g"),
    )
    grid.add_row(Phrase("learning rate"), rate, Phrase("gradient norm {norm}", norm=norm))
    speed = number(metrics.get("tokens_per_second"), ",.0f")
    planned = number(view.expected.tokens_per_second, ",.0f")
    grid.add_row("tokens/s", speed, Phrase("predicted {rate}", rate=planned))
    grid.add_row(
        Phrase("step time"),
        _seconds(metrics.get("step_time_s")),
        Phrase("waiting for data {share}", share=waiting(metrics)),
    )
    return grid


def _loss_words(view: View) -> str:
    first, least = number(view.first_loss, ".4f"), number(view.least_loss, ".4f")
    return Phrase("first {first}, least {least}", first=first, least=least)


def _memory(view: View, width: int, *, ascii_only: bool) -> Table:
    """Return a row per device: its memory now and at its peak, and the prediction."""
    expected = view.expected
    has_heat = any(gauge.temperature_c is not None for gauge in view.gauges)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=LABEL_WIDTH)
    grid.add_column(no_wrap=True)
    for _ in range(3 + 2 * has_heat):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row(
        *(Phrase("device"), expected.what, Phrase("now"), Phrase("peak"), Phrase("predicted")),
        *(("", "") if has_heat else ()),
        style="dim",
    )
    bar_width = max(LEAST_BAR, width - (MEMORY_AND_HEAT_WIDTH if has_heat else MEMORY_WIDTH))
    for gauge in view.gauges:
        grid.add_row(
            gauge.name,
            memory_bar(gauge, expected, bar_width, ascii_only=ascii_only),
            _gib(gauge.used_bytes),
            _gib(gauge.peak_bytes),
            predicted_range(expected),
            *_heat(gauge, has_heat=has_heat),
        )
    return grid


def _heat(gauge: Gauge, *, has_heat: bool) -> tuple[str, ...]:
    if not has_heat:
        return ()
    celsius, watts = gauge.temperature_c, gauge.power_watts
    return (
        UNKNOWN if celsius is None else f"{celsius} C",
        UNKNOWN if watts is None else f"{watts} W",
    )


def memory_bar(gauge: Gauge, expected: Expected, width: int, *, ascii_only: bool) -> Text:
    """Return the peak as a bar over the device's capacity; the prediction beyond it is shaded."""
    full, shade, empty = "#=." if ascii_only else "█▒·"
    per_cell = max(1, expected.capacity_bytes) / width
    used = min(width, round((gauge.peak_bytes or 0) / per_cell))
    high = min(width, round(expected.high_bytes / per_cell))
    over = (gauge.peak_bytes or 0) > expected.high_bytes
    bar = Text(full * used, style="yellow" if over else "green")
    bar.append(shade * max(0, high - used), style="dim")
    return bar.append(empty * (width - max(used, high)), style="dim")


def predicted_range(expected: Expected) -> str:
    """Return the predicted memory in GiB, as a range if it is one."""
    low, high = format_gib(expected.low_bytes), format_gib(expected.high_bytes)
    return high if low == high else f"{low}-{high}"


def plain_line(view: View) -> str:
    """Return a logged step as a line; all lines of a run have the same columns."""
    metrics, digits = view.metrics, len(f"{view.num_steps}")
    parts: list[str] = [
        Phrase("step {step}/{total}", step=f"{view.step:>{digits}}", total=view.num_steps),
        Phrase("loss {loss:>7}", loss=number(metrics.get("loss"), ".4f")),
        Phrase("lr {rate:>8}", rate=number(metrics.get("learning_rate"), ".2e")),
        f"{number(metrics.get('tokens_per_second'), ',.0f'):>7} tokens/s",
        Phrase("data {share:>4}", share=waiting(metrics)),
        f"{_gib(max((g.peak_bytes or 0 for g in view.gauges), default=None)):>5} GiB",
        *_heat_words(view.gauges),
        left_words(view),
    ]
    return Joined("  ", parts)


def _heat_words(gauges: Sequence[Gauge]) -> list[str]:
    """Return the temperature of the hottest device, and the power of all, if known."""
    heats = [gauge.temperature_c for gauge in gauges if gauge.temperature_c is not None]
    powers = [gauge.power_watts for gauge in gauges if gauge.power_watts is not None]
    return [
        *([f"{max(heats):>3} C"] if heats else []),
        *([f"{sum(powers):>5,} W"] if powers else []),
    ]


def waiting(metrics: Mapping[str, float]) -> str:
    """Return the share of a step that was spent waiting for the next batch."""
    waited, step = metrics.get("data_wait_s"), metrics.get("step_time_s")
    return UNKNOWN if waited is None or not step else f"{waited / step:.0%}"


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash if it is unknown."""
    return UNKNOWN if value is None else f"{value:{form}}"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else format_duration(value)


def _gib(num_bytes: int | None) -> str:
    return UNKNOWN if num_bytes is None else f"{num_bytes / GIB:,.2f}"
