"""The page of one run, or of two beside each other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.run_page.lines_chart import Curve, Level, lines_chart
from launcher.run_page.run_record import RunRecord
from launcher.run_page.series import Series, evaluations_of, neighbours, series_of
from launcher.run_page.settings import settings_of
from planner.base.phrases import Joined, Phrase
from planner.base.printable import shown_on_one_line
from planner.base.units import GIB, format_duration, format_gib, format_rate, short_gib
from planner.page.columns_chart import Line
from planner.page.document import page
from planner.page.elements import Child, Markup, element, joined
from planner.page.memory_chart import memory_chart, part_title, swatch
from planner.page.parts import Column, body, facts, section, table
from planner.page.side_by_side import in_words
from planner.plan.plan_differences import plan_differences
from planner.plan.vocabulary import METHOD_NAMES, PARTS, PHASES

SCRIPT = Path(__file__).parent / "curves.js"
KINDS = ("first", "second")
"""Styles of the runs' curves."""
UNKNOWN = "-"
WORDS = {
    "step": Phrase("step {step}"),
    "copied": Phrase("Copied"),
    "select": Phrase("Press Ctrl+C"),
}
"""Texts of the scripts."""


def page_of_runs(records: Sequence[RunRecord]) -> str:
    """Return the text of the page's file."""
    charts: dict[str, Any] = {}
    sections = {
        "training": (
            Phrase("Training"),
            _charts("training", Phrase("Training"), records, TRAINING, charts),
        ),
        "speed": (Phrase("Speed"), _charts("speed", Phrase("Speed"), records, SPEED, charts)),
        "memory": (Phrase("Memory"), _memory(records, charts)),
        "differences": (Phrase("Differences"), _differences(records) if len(records) > 1 else None),
        "attempts": (Phrase("Attempts"), _attempts(records)),
        "settings": (Phrase("Settings"), _settings(records[0]) if len(records) == 1 else None),
        "environment": (Phrase("Environment"), _environment(records)),
    }
    there = {name: (title, content) for name, (title, content) in sections.items() if content}
    names = Joined(" and ", map(_name, records))
    paths = Joined(" and ", (str(record.path) for record in records))
    return page(
        Phrase("{names}: run", names=names)
        if len(records) == 1
        else Phrase("{names}: runs", names=names),
        body(
            _answer(records),
            [(name, title) for name, (title, _) in there.items()],
            joined(*(content for _, content in there.values())),
            Phrase("Read from {paths}.", paths=paths),
        ),
        data={"words": WORDS, "charts": charts},
        scripts=[SCRIPT],
    )


def _name(record: RunRecord) -> str:
    return shown_on_one_line(record.path.resolve().name)


def _answer(records: Sequence[RunRecord]) -> Markup:
    several = len(records) > 1
    plans = [record.plan for record in records if record.plan is not None]
    models = dict.fromkeys(plan.model.name for plan in plans)
    return joined(
        element("p", Phrase("Runs") if several else Phrase("Run"), class_="kind"),
        element("h1", Joined(" and ", models) or _name(records[0])),
        *(_verdict(record, _key(n, record, several=several)) for n, record in enumerate(records)),
        _figures(records),
        *(_lacks(record, several=several) for record in records),
    )


def _key(number: int, record: RunRecord, *, several: bool) -> Markup | None:
    """Return the name of a run with the line that its curves have, where there are several."""
    if not several:
        return None
    line = element("line", x1=0, x2=24, y1=6, y2=6, class_=f"curve {KINDS[number]}")
    drawn = element("svg", line, width=24, height=12, class_="key", aria_hidden="true")
    return element("span", drawn, element("b", _name(record)), Phrase(": "))


def _verdict(record: RunRecord, key: Markup | None) -> Markup:
    """Return in one sentence how far a run has come, and with what loss."""
    kind, mark, words = _state(record)
    badge = element("strong", mark, class_=f"badge {kind}")
    return element("p", key, badge, " ", words, class_="verdict")


def _state(record: RunRecord) -> tuple[str, str, str]:
    """Return style, badge and sentence of how far a run has come."""
    if record.report is not None:
        trained, seconds = record.report.training, record.report.measured.run_time_s
        took = "" if seconds is None else Phrase(", {time}", time=format_duration(seconds))
        count = trained.num_steps
        steps = Phrase("{count:,} {count[step|steps]}", count=count)
        loss = Phrase(
            "loss {first_loss:.4f} to {last_loss:.4f} in {steps}{took}.",
            first_loss=trained.first_loss,
            last_loss=trained.last_loss,
            steps=steps,
            took=took,
        )
        return "fits", Phrase("Finished"), loss
    planned = None if record.plan is None else record.plan.training.max_steps
    of = "" if planned is None else Phrase(" of {planned:,}", planned=planned)
    last = record.last_step
    reached = (
        Phrase("no step is logged yet")
        if last is None
        else Phrase("step {last:,}{of} is the last logged", last=last, of=of)
    )
    latest = next((row.loss for row in reversed(record.rows) if row.loss is not None), None)
    now = "" if latest is None else Phrase(", with loss {latest:.4f}", latest=latest)
    if record.is_running:
        return "tight", Phrase("Running"), Phrase("{reached}{now}.", reached=reached, now=now)
    ended = record.attempts[-1].ended if record.attempts else None
    why = "" if ended is None else Phrase(" The last attempt: {ended}.", ended=Phrase(ended))
    return "no", Phrase("Not finished"), Phrase("{reached}{now}.", reached=reached, now=now) + why


def _figures(records: Sequence[RunRecord]) -> Markup:
    """Return predicted beside measured figures."""
    several = len(records) > 1
    columns = [Column("")]
    for record in records:
        name = f"{_name(record)}: " if several else ""
        columns += [
            Column(name + Phrase("predicted"), True),
            Column(name + Phrase("measured"), True),
        ]
    rows = [
        [title, *(cell for record in records for cell in (predicted(record), measured(record)))]
        for title, predicted, measured in FIGURES
    ]
    known = [row for row in rows if any(cell != UNKNOWN for cell in row[1:])]
    caption = Phrase("Predicted and measured")
    return table(caption, columns, known, narrow="folds") if known else joined()


def _gib(num_bytes: int | None) -> str:
    return UNKNOWN if num_bytes is None else f"{format_gib(num_bytes)} GiB"


def _of_report(
    read: Callable[[Any], Any], shown: Callable[[Any], str]
) -> Callable[[RunRecord], str]:
    """Return a function that shows what a report has measured."""

    def cell(record: RunRecord) -> str:
        value = None if record.report is None else read(record.report.measured)
        return UNKNOWN if value is None else shown(value)

    return cell


def _of_plan(read: Callable[[Any], Any], shown: Callable[[Any], str]) -> Callable[[RunRecord], str]:
    """Return a function that shows what a plan predicts."""

    def cell(record: RunRecord) -> str:
        value = None if record.plan is None else read(record.plan)
        return UNKNOWN if value is None else shown(value)

    return cell


def _on_gpu(plan: Any) -> bool:
    return bool(plan.hardware.device == "cuda")


FIGURES: tuple[tuple[str, Callable[[RunRecord], str], Callable[[RunRecord], str]], ...] = (
    (
        Phrase("peak allocated per GPU"),
        _of_plan(lambda p: p.prediction.peak_allocated_bytes if _on_gpu(p) else None, _gib),
        _of_report(lambda m: m.peak_allocated_bytes, _gib),
    ),
    (
        Phrase("peak reserved per GPU"),
        lambda _: UNKNOWN,
        _of_report(lambda m: m.peak_reserved_bytes, _gib),
    ),
    (
        Phrase("in use per GPU"),
        _of_plan(
            lambda p: (p.prediction.low_bytes, p.prediction.high_bytes) if _on_gpu(p) else None,
            lambda ends: Phrase(
                "{low} to {high} GiB", low=format_gib(ends[0]), high=format_gib(ends[1])
            ),
        ),
        _of_report(lambda m: m.device_used_bytes, _gib),
    ),
    (
        Phrase("peak resident per process"),
        _of_plan(lambda p: p.prediction.host_ram_bytes // p.parallel.gpus_per_node, _gib),
        _of_report(lambda m: m.peak_resident_bytes, _gib),
    ),
    (
        Phrase("time per step"),
        _of_plan(lambda p: p.prediction.step_time_s, format_duration),
        _of_report(lambda m: m.step_time_s, format_duration),
    ),
    (
        Phrase("tokens per second"),
        _of_plan(lambda p: p.prediction.tokens_per_second, format_rate),
        _of_report(lambda m: m.tokens_per_second, format_rate),
    ),
)
"""Rows of the first table: title, predicted, measured."""


def _lacks(record: RunRecord, *, several: bool) -> Markup | None:
    if not record.lacks:
        return None
    name = f"{_name(record)}: " if several else ""
    return element(
        "ul", *(element("li", name, sentence) for sentence in record.lacks), class_="note"
    )


Chart = tuple[str, str]
"""A metric and the title of its chart."""

TRAINING: tuple[Chart, ...] = (
    ("loss", Phrase("Loss")),
    ("learning_rate", Phrase("Learning rate")),
    ("grad_norm", Phrase("Norm of the gradients")),
)
SPEED: tuple[Chart, ...] = (
    ("tokens_per_second", Phrase("Tokens per second")),
    ("step_time_s", Phrase("Seconds per step")),
    ("data_wait_s", Phrase("Seconds per step that wait for data")),
)
IN_USE: tuple[Chart, ...] = (("peak_used_bytes", Phrase("GiB in use, the most so far")),)


def _charts(
    name: str,
    title: str,
    records: Sequence[RunRecord],
    wanted: Sequence[Chart],
    data: dict[str, Any],
) -> Markup | None:
    """Return a section with a chart for each metric that a run has; ``data`` gets their numbers."""
    drawn = list(_drawn(records, wanted, data))
    return section(name, title, element("div", *drawn, class_="charts")) if drawn else None


def _drawn(
    records: Sequence[RunRecord], wanted: Sequence[Chart], data: dict[str, Any]
) -> Iterator[Markup]:
    for metric, title in wanted:
        curves = list(_curves(records, metric))
        if not curves:
            continue
        data[metric] = [
            {"name": label, "kind": curve.kind, "steps": curve.steps, "values": curve.values}
            for label, curve in curves
        ]
        levels = _levels(records, metric)
        yield lines_chart(metric, title, [curve for _, curve in curves], levels)


def _curves(records: Sequence[RunRecord], metric: str) -> Iterator[tuple[str, Curve]]:
    together = neighbours(records)
    for kind, record in zip(KINDS, records, strict=False):
        name = _name(record) if len(records) > 1 else ""
        found = _scaled(series_of(record, metric, together), metric)
        if found.steps:
            yield name, Curve(kind, *found)
        held_out = evaluations_of(record)
        if metric == "loss" and held_out.steps:
            yield (
                Phrase("{name} held out", name=name) if name else Phrase("held out"),
                Curve(f"{kind} dashed", *held_out),
            )


def _scaled(found: Series, metric: str) -> Series:
    if metric != "peak_used_bytes":
        return found
    return Series(found.steps, tuple(round(value / GIB, 3) for value in found.values))


def _levels(records: Sequence[RunRecord], metric: str) -> list[Level]:
    """Return the lines of what was predicted, if that is one plan's."""
    plan = records[0].plan
    if len(records) > 1 or plan is None:
        return []
    predicted = plan.prediction
    if metric == "peak_used_bytes":
        high = predicted.high_bytes
        return [Level(Phrase("predicted at most {gib}", gib=short_gib(high)), high / GIB)]
    known = {"tokens_per_second": predicted.tokens_per_second, "step_time_s": predicted.step_time_s}
    number = known.get(metric)
    return (
        []
        if number is None
        else [Level(Phrase("predicted {rate}", rate=format_rate(number)), number)]
    )


def _memory(records: Sequence[RunRecord], data: dict[str, Any]) -> Markup | None:
    """Return what was predicted by phase with the measured peak, and what was in use."""
    parts = [
        *(_predicted(record, several=len(records) > 1) for record in records if record.plan),
        *_drawn(records, IN_USE, data),
    ]
    return (
        section("memory", Phrase("Memory"), element("div", *parts, class_="charts"))
        if parts
        else None
    )


def _predicted(record: RunRecord, *, several: bool) -> Markup:
    plan = record.plan
    assert plan is not None
    phases = plan.prediction.phases
    name = f"{_name(record)}: " if several else ""
    words = Phrase(
        "{name}Tensors by phase as predicted; a run measures the peak alone, which "
        "is {measured_peak}.",
        name=name,
        measured_peak=_measured_peak(record),
    )
    chart = memory_chart(phases, _memory_lines(record), described=words)
    kinds = (part for part in PARTS if any(phases.get(phase, {}).get(part) for phase in PHASES))
    legend = element(
        "p", *(element("span", swatch(part), part_title(part)) for part in kinds), class_="legend"
    )
    title = element("b", Phrase("{name}GiB by phase, predicted", name=name))
    return element("figure", element("figcaption", title), chart, legend, element("p", words))


def _measured_peak(record: RunRecord) -> str:
    measured = None if record.report is None else record.report.measured
    if measured is None:
        return Phrase("written at the run's end")
    if measured.peak_allocated_bytes is not None:
        return f"{short_gib(measured.peak_allocated_bytes)} GiB"
    if measured.peak_resident_bytes is not None:
        return Phrase(
            "on the CPU that of the process, {gib} GiB", gib=short_gib(measured.peak_resident_bytes)
        )
    return Phrase("missing")


def _memory_lines(record: RunRecord) -> list[Line]:
    assert record.plan is not None
    budget = record.plan.hardware.budget_bytes
    lines = [
        Line(
            budget / GIB, Phrase("usable {gib} GiB", gib=short_gib(budget)), "capacity", at_end=True
        )
    ]
    peak = None if record.report is None else record.report.measured.peak_allocated_bytes
    if peak is not None:
        lines.append(
            Line(peak / GIB, Phrase("measured {gib}", gib=short_gib(peak)), "worst", at_end=True)
        )
    return lines


def _attempts(records: Sequence[RunRecord]) -> Markup | None:
    tables = [_attempt_table(record, len(records) > 1) for record in records if record.attempts]
    return section("attempts", Phrase("Attempts"), *tables) if tables else None


def _attempt_table(record: RunRecord, several: bool) -> Markup:
    columns = [
        Column(Phrase("attempt"), is_number=True),
        Column(Phrase("strategy")),
        Column(Phrase("micro-batch"), is_number=True),
        Column(Phrase("accumulation"), is_number=True),
        Column(Phrase("activations")),
        Column(Phrase("from step"), is_number=True),
        Column(Phrase("ended")),
    ]
    rows = [
        [
            f"{number}",
            attempt.strategy,
            f"{attempt.micro_batch_size}",
            f"{attempt.gradient_accumulation_steps}",
            _activations(attempt.activation_checkpointing, attempt.checkpoint_every),
            f"{attempt.from_step:,}",
            _ended(attempt.ended, running=record.is_running),
        ]
        for number, attempt in enumerate(record.attempts, start=1)
    ]
    caption: str = Phrase("Every start of the ranks, and how it ended")
    if several:
        caption = Joined(": ", [_name(record), caption])
    return table(caption, columns, rows, narrow="stacks")


def _ended(how: str | None, *, running: bool) -> str:
    if how is not None:
        return Phrase(how)
    return Phrase("running") if running else Phrase("not recorded")


def _activations(recomputed: bool, every: int) -> str:
    if not recomputed:
        return Phrase("kept")
    if every == 1:
        return Phrase("recomputed")
    return Phrase("recomputed in 1 of {every} layers", every=every)


def _differences(records: Sequence[RunRecord]) -> Markup:
    plans = [record.plan for record in records if record.plan is not None]
    if len(plans) < len(records):
        return section(
            "differences", Phrase("Differences"), element("p", Phrase("A plan cannot be read."))
        )
    found = [[key, *map(in_words, values)] for key, values in plan_differences(plans).items()]
    if not found:
        return section(
            "differences", "Differences", element("p", Phrase("The plans have the same settings."))
        )
    columns = [Column(Phrase("key")), *(Column(_name(record)) for record in records)]
    caption = Phrase("Settings in which the plans differ")
    return section(
        "differences", Phrase("Differences"), table(caption, columns, found, narrow="stacks")
    )


def _settings(record: RunRecord) -> Markup | None:
    if record.plan is None:
        return None
    plan = record.plan
    caption = Phrase(
        "{method} of {name}, as it is run",
        method=METHOD_NAMES[plan.method],
        name=plan.model.name,
    )
    rows = list(settings_of(plan).items())
    return section(
        "settings",
        Phrase("Settings"),
        table(caption, [Column(Phrase("key")), Column(Phrase("value"))], rows),
    )


def _environment(records: Sequence[RunRecord]) -> Markup | None:
    found: Mapping[str, Any] = {
        _name(record): record.environment for record in records if record.environment is not None
    }
    if not found:
        return None
    several = len(records) > 1
    blocks: list[Child] = []
    for name, environment in found.items():
        packages = [f"{key} {value}" for key, value in environment.packages.items() if value]
        rows: list[tuple[str, Child]] = [
            ("Python", environment.python),
            (Phrase("Platform"), environment.platform),
            (Phrase("Packages"), ", ".join(packages)),
        ]
        blocks += [element("h3", name) if several else None, facts(rows)]
    return section("environment", Phrase("Environment"), *blocks)
