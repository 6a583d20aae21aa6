"""The accuracy tables: errors by source and method, by phase, verdicts, and what was set aside."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.adapters import adapter_lines
from benchmarks.accuracy.own import own_errors
from benchmarks.accuracy.phases import phase_errors
from benchmarks.accuracy.predict import (
    MEASURED_AS,
    Reading,
    by_its_id,
    measured,
    predicted,
    set_aside,
)
from benchmarks.accuracy.verdicts import Verdict, verdicts
from benchmarks.errors import error_statistics, relative_error
from benchmarks.marks import Marks
from benchmarks.rows import Row

MARKS = Marks("<!-- accuracy -->", "<!-- end of accuracy -->")
PUBLISHED = "as published"
"""Name of the group that has each row once: by the first reading of its source, as replayed."""
BEST: tuple[Reading, ...] = ("allocated, replayed", "reserved, replayed", "device, replayed")
Kind = tuple[str, str]
"""A source and a method, or all of its methods."""
Group = tuple[str, str, str]
ERROR_COLUMNS = "rows | median | 95 % | worst | too little"
HEADER = (f"| peak | source | method | {ERROR_COLUMNS} |", "|---|---|---|---:|---:|---:|---:|---:|")


def errors(rows: Sequence[Row]) -> dict[Group, list[float]]:
    """Return signed relative errors by reading, source and method."""
    found: dict[Group, list[float]] = defaultdict(list)
    for row in rows:
        if set_aside(row) is not None:
            continue
        of_row = row_errors(row)
        for reading, error in of_row.items():
            found[reading, row.source, row.method].append(error)
        own = next(of_row[reading] for reading in BEST if reading in of_row)
        found[PUBLISHED, row.source, row.method].append(own)
    return dict(found)


def row_errors(row: Row) -> dict[Reading, float]:
    """Return a row's errors by every reading that was measured and is predicted."""
    readings = measured(row)
    return {
        reading: relative_error(predicted=size, measured=readings[MEASURED_AS[reading]])
        for reading, size in predicted(row).items()
        if MEASURED_AS[reading] in readings
    }


def reasons(rows: Sequence[Row]) -> Counter[tuple[str, str]]:
    """Return why rows were set aside, by source, with their number."""
    found = ((row.source, set_aside(row)) for row in rows)
    return Counter((source, reason) for source, reason in found if reason is not None)


def markdown(rows: Sequence[Row], *, by_method: bool = False, own: Sequence[Path] = ()) -> str:
    """Return the tables as the documentation shows them; ``own`` are folders with more of our
    runs."""
    parts = (
        _peaks(rows, by_method=by_method),
        _phases(rows),
        adapter_lines(),
        _verdicts(),
        _aside(rows),
        _own(own),
    )
    return "\n\n".join("\n".join(part) for part in parts if part)


def _peaks(rows: Sequence[Row], *, by_method: bool) -> list[str]:
    found = errors(rows)
    lines = list(HEADER)
    for reading in (*MEASURED_AS, PUBLISHED):
        kinds = {key[1:]: group for key, group in sorted(found.items()) if key[0] == reading}
        if not kinds:
            continue
        if reading != PUBLISHED:
            shown = kinds if by_method else _by_source(kinds)
            lines += [
                f"| {reading} | {' | '.join(k)} | {_cells(group)}" for k, group in shown.items()
            ]
        lines.append(f"| {reading} | **all** | | {_cells(_joined(kinds.values()))}")
    return lines


def _by_source(kinds: Mapping[Kind, Sequence[float]]) -> dict[Kind, list[float]]:
    """Return one group per source, with its methods and their rows in one cell."""
    sources = dict.fromkeys(source for source, _ in kinds)
    found = {}
    for source in sources:
        own = {method: group for (name, method), group in kinds.items() if name == source}
        told = ", ".join(f"{method} {len(group)}" for method, group in own.items())
        found[source, told] = _joined(own.values())
    return found


def _phases(rows: Sequence[Row]) -> list[str]:
    lines = [f"| phase | allocated | {ERROR_COLUMNS} |", "|---|---|---:|---:|---:|---:|---:|"]
    for (mark, what), group in phase_errors(rows).items():
        lines.append(f"| {mark} | {what} | {_cells(group)}")
    return lines


def _verdicts() -> list[str]:
    found = list(verdicts())
    told = [verdict for verdict in found if verdict.predicted is not None]
    lines = [
        f"Verdicts on published outcomes: {sum(map(_right, told))} of {len(told)} right "
        f"({sum(not verdict.completed for verdict in told)} ran out of memory); "
        f"{len(found) - len(told)} set aside."
    ]
    lines += [f"Wrong: {v.run} on {v.card}." for v in told if not _right(v)]
    planned = [verdict for verdict in told if verdict.planned is not None]
    refused = [verdict for verdict in planned if verdict.completed and not verdict.planned]
    taken = [verdict for verdict in planned if verdict.planned and not verdict.completed]
    lines += [
        f"By `plan`, which lets a run onto a card if the high end of its range fits: "
        f"{len(planned) - len(refused) - len(taken)} of {len(planned)} right; "
        f"{len(taken)} that ran out are let on, {len(refused)} that completed are refused."
    ]
    lines += [f"Let on: {v.run} on {v.card}." for v in taken]
    return [*lines, *(f"Refused: {v.run} on {v.card}." for v in refused)]


def _right(verdict: Verdict) -> bool:
    return verdict.predicted == verdict.completed


def _aside(rows: Sequence[Row]) -> list[str]:
    found, errors_of = reasons(rows), aside_errors(rows)
    lines = [f"Set aside: {sum(found.values())} of {len(rows)} rows."]
    known = [error for errors in errors_of.values() for error in errors]
    if known:
        low = sum(error < 0 for error in known)
        lines[0] += (
            f" For {len(known)} of them, whose conventions are declared, a prediction can be made "
            f"all the same: {'all' if low == len(known) else low} of these are too low."
        )
    if found:
        lines += ["", "| source | rows | predicted all the same | why |", "|---|---:|---|---|"]
    return [
        *lines,
        *(
            f"| {source} | {n} | {_span(errors_of[source, why])} | {why} |"
            for (source, why), n in sorted(found.items())
        ),
    ]


def aside_errors(rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    """Return the errors that rows would have which are set aside by their ids, by source and
    reason, by the first reading of each."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        reason = set_aside(row)
        if reason is None or not by_its_id(row):
            continue
        of_row = row_errors(row)
        found[row.source, reason] += [of_row[name] for name in BEST if name in of_row][:1]
    return found


def _span(errors: Sequence[float]) -> str:
    """Return the least and the most of some errors; nothing where there is none."""
    if not errors:
        return ""
    ends = sorted({f"{min(errors):+.0%}", f"{max(errors):+.0%}"}, reverse=True)
    return " to ".join(ends)


def _own(more: Sequence[Path]) -> list[str]:
    own = own_errors(more)
    if not own:
        return []
    lines = ["Our own runs, with the card in the place of the source:", "", *HEADER]
    return [
        *lines,
        *(f"| {' | '.join(key)} | {_cells(group)}" for key, group in sorted(own.items())),
    ]


def _cells(group: Sequence[float]) -> str:
    found = error_statistics(group)
    return (
        f"{found.count} | {found.median:.2%} | {found.percentile_95:.2%} "
        f"| {found.worst:+.2%} | {found.under_share:.0%} |"
    )


def _joined(groups: Iterable[Sequence[float]]) -> list[float]:
    return [error for group in groups for error in group]
