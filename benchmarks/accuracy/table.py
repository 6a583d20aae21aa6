"""The accuracy table: errors by source and method, and the rows that were set aside."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from benchmarks.accuracy.predict import MEASURED_AS, Reading, measured, predicted, set_aside
from benchmarks.errors import error_statistics, relative_error
from benchmarks.rows import Row

START, END = "<!-- accuracy -->", "<!-- end of accuracy -->"


def errors(rows: Sequence[Row]) -> dict[tuple[Reading, str, str], list[float]]:
    """Signed relative errors by reading, source and method."""
    found: dict[tuple[Reading, str, str], list[float]] = defaultdict(list)
    for row in rows:
        if set_aside(row) is not None:
            continue
        readings = measured(row)
        for reading, num_bytes in predicted(row).items():
            if MEASURED_AS[reading] in readings:
                error = relative_error(predicted=num_bytes, measured=readings[MEASURED_AS[reading]])
                found[reading, row.source, row.method].append(error)
    return dict(found)


def reasons(rows: Sequence[Row]) -> Counter[str]:
    """Why rows were set aside, and how many."""
    return Counter(reason for row in rows if (reason := set_aside(row)) is not None)


def markdown(rows: Sequence[Row]) -> str:
    """The table as the README shows it, and a line on what is not in it."""
    found = errors(rows)
    lines = [
        "| reading | source | method | rows | median | 95th percentile | worst | too little |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for reading in MEASURED_AS:
        kinds = {key[1:]: group for key, group in sorted(found.items()) if key[0] == reading}
        if not kinds:
            continue
        lines += [_line(reading, *kind, group) for kind, group in kinds.items()]
        lines.append(_line(reading, "all", "", [e for group in kinds.values() for e in group]))
    aside = reasons(rows)
    named = "; ".join(f"{reason}: {count}" for reason, count in aside.most_common())
    lines += ["", f"Set aside: {sum(aside.values())} rows ({named})."]
    return "\n".join(lines)


def _line(reading: str, source: str, method: str, group: Sequence[float]) -> str:
    found = error_statistics(group)
    return (
        f"| {reading} | {source} | {method} | {found.count} | {found.median:.2%} "
        f"| {found.percentile_95:.2%} | {found.worst:+.2%} | {found.under_share:.0%} |"
    )


def with_table(readme: str, table: str) -> str:
    """The README's text with the table between its marks."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table}\n{END}{after}"
