"""python -m benchmarks.simulated.published: published runs replayed on simulated cards.

The source's own program does what it did, with the versions that its rows state, on a simulated
card of the same name; what it prints is held against what it printed on the real one.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.accuracy.__main__ import PUBLISHED
from benchmarks.errors import relative_error
from benchmarks.marks import Marks
from benchmarks.measure.environment import host_environment
from benchmarks.peers.environments import installed
from benchmarks.rows import Row as PublishedRow
from benchmarks.rows import read_rows
from benchmarks.simulated.published.replay import Environment, Replay, replays, write_model
from benchmarks.simulated.result_rows import Row, append
from benchmarks.simulated.result_rows import read_rows as read_results
from benchmarks.simulated.summary import NAMED_FROM, PAGE

RESULTS = Path(__file__).parents[2] / "results" / "simulated-published.csv"
COLUMNS = ("row", "versions", "reading", "measured_bytes", "counted_bytes", "seconds", "reason")
READINGS = (
    *("load", "reserved after load", "forward", "backward", "optimizer step"),
    *("allocated", "reserved"),
)
"""Columns of the table, in the order of a run."""
MARKS = Marks("<!-- published -->", "<!-- end of published -->")


def main() -> None:
    """Replay what is left, or show what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, help="folder for an environment per source")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--only", default="*", help="only rows whose id matches, as in fitcheck-01*"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into the documentation, run nothing"
    )
    options = parser.parse_args()
    if options.environments is not None:
        deadline = time.monotonic() + 60 * options.minutes
        for replay in replays():
            run(replay, options.environments, options.only, deadline)
    rows = read_results(RESULTS)
    print(summary(rows))
    if options.write:
        MARKS.write(PAGE, markdown(rows))


def run(replay: Replay, environments: Path, only: str, deadline: float) -> None:
    """Replay the rows that have no result, and keep each as it ends."""
    done = {row["row"] for row in read_results(RESULTS)}
    chosen = [row for row in read_rows(PUBLISHED) if replay.has(row)]
    left = [row for row in chosen if row.id not in done and fnmatch(row.id, only)]
    if not left:
        return
    environment = Environment(environments / f"{replay.source}-{replay.noted.split()[1]}", replay)
    environment.make()
    for row in left:
        if time.monotonic() > deadline:
            return
        found = list(replayed(environment, row))
        append(RESULTS, COLUMNS, found)
        keep_environment(environment)
        for line in found:
            print(*line.values(), flush=True)


def replayed(environment: Environment, row: PublishedRow) -> Iterator[Row]:
    """Yield a row of results per reading, or one with the reason why there is none."""
    began = time.monotonic()
    replay = environment.replay
    known = {**dict.fromkeys(COLUMNS, ""), "row": row.id, "versions": replay.noted}
    with TemporaryDirectory(prefix="simulated-model-") as name:
        try:
            counted = replay.counted(environment.run(row, write_model(row, Path(name))))
        except (RuntimeError, TimeoutError) as error:
            yield {**known, "reason": str(error)}
            return
    seconds = round(time.monotonic() - began, 1)
    for reading, size in replay.measured(row).items():
        yield {
            **known,
            "reading": reading,
            "measured_bytes": size,
            "counted_bytes": counted[reading],
            "seconds": seconds,
        }


def keep_environment(environment: Environment) -> None:
    """Write the versions of a replay's packages beside the results."""
    path = RESULTS.with_suffix(".json")
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    replay = environment.replay
    known[f"{replay.source}, {replay.noted}"] = {
        "device": f"simulated {replay.card}",
        **host_environment(()),
        "packages": installed(environment.python),
        "not stated by the source": replay.not_stated,
    }
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def error_of(row: Row) -> float:
    """Return (counted - measured) / measured."""
    return relative_error(predicted=int(row["counted_bytes"]), measured=int(row["measured_bytes"]))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the documentation: median and worst error by source, method and versions
    in a line, and by reading in a column."""
    methods = {row.id: row.method for row in read_rows(PUBLISHED)}
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in (row for row in rows if not row["reason"]):
        name = row["row"]
        group = groups.setdefault((name.rpartition("-")[0], methods[name], row["versions"]), {})
        group.setdefault(row["reading"], []).append(error_of(row))
    readings = [
        reading for reading in READINGS if any(reading in group for group in groups.values())
    ]
    lines = [
        f"| rows of | with | runs | {' | '.join(readings)} |",
        f"|---|---|---:|{'---:|' * len(readings)}",
    ]
    for (source, method, versions), group in sorted(groups.items()):
        cells = [_cell(group.get(reading, [])) for reading in readings]
        runs = max(map(len, group.values()))
        lines.append(f"| {source}, {method} | {versions} | {runs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(errors: Sequence[float]) -> str:
    if not errors:
        return ""
    return f"{median(map(abs, errors)):.2%}, {max(errors, key=abs):+.2%}"


def summary(rows: Sequence[Row]) -> str:
    """Return the table, every deviation that is not small, and what did not run."""
    counted = [row for row in rows if not row["reason"]]
    outside = [row for row in counted if abs(error_of(row)) > NAMED_FROM]
    lines = [
        f"{row['row']} {row['reading']}: {error_of(row):+.2%} "
        f"({int(row['counted_bytes']) - int(row['measured_bytes']):+,} bytes)"
        for row in outside
    ]
    lines += [f"{row['row']}: {row['reason']}" for row in rows if row["reason"]]
    return "\n".join([markdown(rows), *lines])


if __name__ == "__main__":
    main()
