"""The accuracy table: errors by source and method, and the rows that were set aside."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from benchmarks.accuracy.predict import predicted, set_aside
from benchmarks.errors import ErrorStatistics, error_statistics, relative_error
from benchmarks.rows import Row

START, END = "<!-- accuracy -->", "<!-- end of accuracy -->"


def errors(rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    """Signed relative errors of the allocated peak, by source and method."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if set_aside(row) is None:
            error = relative_error(predicted=predicted(row), measured=row.readings["allocated"])
            found[row.source, row.method].append(error)
    return dict(found)


def reasons(rows: Sequence[Row]) -> Counter[str]:
    """Why rows were set aside, and how many."""
    return Counter(reason for row in rows if (reason := set_aside(row)) is not None)


def markdown(rows: Sequence[Row]) -> str:
    """The table as the README shows it, and a line on what is not in it."""
    by_kind = errors(rows)
    every = [error for group in by_kind.values() for error in group]
    lines = [
        "| source | method | rows | median | 95th percentile | worst | predicted too little |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (source, method), group in sorted(by_kind.items()):
        lines.append(_line(source, method, error_statistics(group)))
    lines.append(_line("all", "", error_statistics(every)))
    set_asides = reasons(rows)
    named = "; ".join(f"{reason}: {count}" for reason, count in set_asides.most_common())
    lines += ["", f"Set aside: {sum(set_asides.values())} rows ({named})."]
    return "\n".join(lines)


def _line(source: str, method: str, found: ErrorStatistics) -> str:
    return (
        f"| {source} | {method} | {found.count} | {found.median:.2%} | {found.percentile_95:.2%} "
        f"| {found.worst:+.2%} | {found.under_share:.0%} |"
    )


def with_table(readme: str, table: str) -> str:
    """The README's text with the table between its marks."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table}\n{END}{after}"
