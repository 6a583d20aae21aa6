"""The alternatives to a plan: a row for each, with the reason beside it or below it."""

from collections.abc import Sequence

from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table

from planner.base.phrases import Joined, Phrase
from planner.base.units import format_gib, format_rate
from planner.decision.alternatives import Alternative
from planner.decision.choose import Decision
from planner.plan.vocabulary import METHOD_NAMES
from planner.report.prose import Prose
from planner.report.tables import NARROW, FirstThatFits, WithLinesBelow, facts, plain_table
from planner.report.words import strategy_title
from planner.search.candidate import Candidate


class _Row(Struct, frozen=True):
    """An alternative as the table shows it."""

    method: str
    strategy: str
    batch: str
    gib: str
    speed: str
    why: str
    style: str

    @property
    def cells(self) -> tuple[str, ...]:
        """All but the reason."""
        return self.method, self.strategy, self.batch, self.gib, self.speed

    @property
    def sentence(self) -> Phrase:
        """All but the method, in words."""
        return Phrase(
            "{strategy}, batch {batch}, {gib} GiB{rate}: {why}",
            strategy=self.strategy,
            batch=self.batch,
            gib=self.gib,
            rate="" if self.speed == "-" else Phrase(", {speed} tokens/s", speed=self.speed),
            why=self.why,
        )


def alternatives_section(decision: Decision, width: int) -> RenderableType:
    """Return a row for each alternative: with the reason beside it where no row wraps then, else
    below it, and in a narrow terminal as a sentence."""
    rows = [_row(each) for each in decision.alternatives]
    if width < NARROW:
        sentences = [(row.method, Prose(row.sentence, row.style)) for row in rows]
        return Group(Prose(_TITLE, "bold"), facts(sentences))
    reasons = [Prose(row.why, row.style) for row in rows]
    below = WithLinesBelow(_table(rows, with_reasons=False), reasons)
    return FirstThatFits(_table(rows, with_reasons=True), below)


_TITLE = Phrase("Other ways")


def _table(rows: Sequence[_Row], *, with_reasons: bool) -> Table:
    table = plain_table(_TITLE)
    table.add_column(Phrase("method"), no_wrap=True)
    table.add_column(Phrase("strategy"), no_wrap=True)
    table.add_column(Phrase("batch"), justify="right", no_wrap=True)
    table.add_column(Phrase("worst GiB"), justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    if with_reasons:
        table.add_column(Phrase("why not"), no_wrap=True)
    for row in rows:
        reason = [Prose(row.why, row.style)] if with_reasons else []
        table.add_row(*row.cells, *reason, style=row.style)
    return table


def alternative_cells(alternative: Alternative) -> tuple[str, ...]:
    """Return a row: method, strategy, micro-batch size, worst GiB, tokens/s, reason."""
    row = _row(alternative)
    return *row.cells, row.why


def _row(alternative: Alternative) -> _Row:
    candidate = alternative.candidate
    speed = candidate.tokens_per_second if alternative.fits else None
    return _Row(
        method=METHOD_NAMES[candidate.method],
        strategy=strategy_title(candidate.layout),
        batch=str(candidate.layout.micro_batch_size),
        gib=format_gib(candidate.memory.high_bytes, 1),
        speed="-" if speed is None else format_rate(speed),
        why=_reason(alternative.reason, candidate),
        style="" if alternative.fits else "dim",
    )


def _reason(reason: str, candidate: Candidate) -> str:
    """Return the reason, with what is special about the candidate beside it."""
    recomputed = candidate.layout.recomputed
    special: list[str] = []
    if recomputed and "recomputed" not in reason:
        special.append(Phrase("{recomputed} recomputed", recomputed=recomputed))
    special += [departure for departure in candidate.departures if departure not in reason]
    if not special:
        return reason
    return Phrase("{reason} ({special})", reason=reason, special=Joined(", ", special))
