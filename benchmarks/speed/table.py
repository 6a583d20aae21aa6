"""The speed tables: errors by source and method, order within a source, and what was set aside."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from benchmarks.errors import error_statistics, relative_error
from benchmarks.marks import Marks
from benchmarks.rows import Row
from benchmarks.speed.own import own_errors
from benchmarks.speed.predict import is_single, measured_s, predicted, set_aside, tokens
from benchmarks.speed.several_gpus import step_lines, told_steps
from planner.speed.card_rates import speed_data

HEADER = (
    "| source | method | rows | median | 95 % | worst | too fast | faster one told |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
)


class Told(NamedTuple):
    """Tokens per second of one row, predicted and measured."""

    row: Row
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Relative error of the throughput; a positive one is a prediction that is too fast."""
        return relative_error(predicted=self.predicted, measured=self.measured)


def told_rows(rows: Sequence[Row]) -> list[Told]:
    """Return every row of one GPU that has a throughput and is not set aside."""
    return [
        Told(row, tokens(row) / measured_s(row), tokens(row) / predicted(row).total_s)
        for row in rows
        if is_single(row) and set_aside(row) is None
    ]


class Order(NamedTuple):
    """Number of pairs whose faster row was predicted to be the faster, and of all pairs."""

    right: int
    pairs: int


def order(told: Iterable[Told]) -> Order:
    """Return the order of the pairs of one source that were not measured to be equally fast."""
    by_source: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        by_source[each.row.source].append(each)
    right = pairs = 0
    for group in by_source.values():
        for a, b in combinations(group, 2):
            if a.measured != b.measured:
                pairs += 1
                right += (a.measured > b.measured) == (a.predicted > b.predicted)
    return Order(right, pairs)


def rate_sources() -> set[str]:
    """Return the sources of rows that a rate is from."""
    return {row.rpartition("-")[0] for row in speed_data().host_s_per_kernel.rows}


def markdown(rows: Sequence[Row], told: Sequence[Told], *, by_method: bool = False) -> str:
    """Return the tables as the documentation shows them; ``told`` are the rows that are judged."""
    several = ["Several GPUs, by DeepSpeed's ZeRO:", "", *step_lines(told_steps())]
    parts = (_errors(told, by_method=by_method), _aside(rows), several, _own())
    return "\n\n".join("\n".join(part) for part in parts if part)


def _errors(told: Sequence[Told], *, by_method: bool) -> list[str]:
    groups: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for each in told:
        groups[each.row.source, each.row.method].append(each)
    shown = groups if by_method else _by_source(groups)
    lines = [f"| {' | '.join(key)} | {_cells(group)}" for key, group in sorted(shown.items())]
    apart = [each for each in told if each.row.source not in rate_sources()]
    return [
        *HEADER,
        *lines,
        f"| **all** | | {_cells(told)}",
        f"| **all but {', '.join(sorted(rate_sources()))}** | | {_cells(apart)}",
    ]


def _by_source(groups: Mapping[tuple[str, str], list[Told]]) -> dict[tuple[str, str], list[Told]]:
    """Return one group per source, with its methods and their rows in one cell."""
    found = {}
    for source in dict.fromkeys(source for source, _ in groups):
        own = {method: group for (name, method), group in groups.items() if name == source}
        methods = ", ".join(f"{method} {len(group)}" for method, group in sorted(own.items()))
        found[source, methods] = [each for group in own.values() for each in group]
    return found


def _cells(group: Sequence[Told]) -> str:
    found, pairs = error_statistics([each.error for each in group]), order(group)
    share = f"{pairs.right} of {pairs.pairs}" if pairs.pairs else "-"
    return (
        f"{found.count} | {found.median:.1%} | {found.percentile_95:.1%} | {found.worst:+.1%} "
        f"| {1 - found.under_share:.0%} | {share} |"
    )


def reasons(rows: Sequence[Row]) -> Counter[tuple[str, str]]:
    """Return why rows of one GPU were set aside, by source, with their number."""
    found = ((row.source, set_aside(row)) for row in rows if is_single(row))
    return Counter((source, reason) for source, reason in found if reason is not None)


def _aside(rows: Sequence[Row]) -> list[str]:
    found, single = reasons(rows), sum(is_single(row) for row in rows)
    lines = [f"Set aside: {sum(found.values())} of {single} rows of one GPU with a throughput."]
    if found:
        lines += ["", "| source | rows | why |", "|---|---:|---|"]
    return [*lines, *(f"| {source} | {n} | {why} |" for (source, why), n in sorted(found.items()))]


def _own() -> list[str]:
    own = own_errors()
    if not own:
        return ["Our own runs on a GPU: none yet."]
    lines = [
        "Our own runs:",
        "",
        "| card | method | rows | median | worst |",
        "|---|---|---:|---:|---:|",
    ]
    for key, group in sorted(own.items()):
        found = error_statistics(group)
        lines.append(
            f"| {' | '.join(key)} | {found.count} | {found.median:.1%} | {found.worst:+.1%} |"
        )
    return lines


MARKS = Marks("<!-- speed -->", "<!-- end of speed -->")
