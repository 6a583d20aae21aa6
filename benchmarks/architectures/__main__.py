"""``python -m benchmarks.architectures``: the default configuration of every causal architecture.

Each is planned by every method, in 20 s of processor time or refused in one line, and its counts
are compared with those of the model that transformers builds and of what peft adapts of it.
``--only NAME`` asks for some; ``--write`` keeps the result row by row, and writes the table of
docs/reference/architectures.md. An architecture that has a row in the newest result is not planned
again unless ``--only`` or ``--anew`` ask for it, so that the same command goes on where it was
ended; those with formulas come first. Exit code 1 if a plan is late, ends otherwise, or counts
wrongly.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.architectures.asked import LIMIT_S, MACHINE, Asked, asked
from benchmarks.architectures.counted import (
    built,
    model_types,
    num_params,
    trainable_params,
    write_default,
)
from benchmarks.architectures.table import MARKS, PAGE, summary, table
from benchmarks.measure.environment import PACKAGES, host_environment
from planner.models.config_json import ARCHITECTURES
from planner.plan.vocabulary import METHODS

RESULTS = Path(__file__).parents[1] / "results"
WRONG = ("faults", "parameters that differ", "trainable counts that differ")


def measured(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each architecture."""
    for model_type in names:
        with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
            yield row_of(model_type, Path(folder) / model_type)


def row_of(model_type: str, folder: Path) -> dict[str, Any]:
    """Return the row of one architecture; what transformers itself does not build has no counts."""
    row: dict[str, Any] = {
        "model_type": model_type,
        "date": time.strftime("%Y-%m-%d"),
        "class": None,
        "built_params": None,
        "num_params": None,
        "how": "-",
        "methods": {},
    }
    try:
        write_default(model_type, folder)
        model = built(folder)
    except Exception as error:
        row["how"] = f"transformers: {' '.join(str(error).split())[:100]}"
        return row
    row |= {"class": type(model).__name__, "built_params": num_params(model)}
    row["how"] = "formulas" if model_type in ARCHITECTURES else "traced"
    for method in METHODS:
        answer = asked(folder, method)
        row["methods"][method] = _method_row(answer, folder)
        if answer.plan is not None:
            row["num_params"] = answer.plan.model.num_params
            row["how"] = "traced" if answer.traced else "formulas"
    return row


def _method_row(answer: Asked, folder: Path) -> dict[str, Any]:
    trained, trained_built = None, None
    if answer.plan is not None:
        trained = answer.plan.model.trainable_params
        trained_built = trainable_params(built(folder), answer.plan)
    return {
        "planned": answer.plan is not None,
        "seconds": round(answer.seconds, 2),
        "wall_s": round(answer.wall_s, 2),
        "refusal": answer.refusal and answer.refusal.replace(f"{folder}/", ""),
        "fault": answer.fault,
        "trainable_params": trained,
        "built_trainable_params": trained_built,
    }


def main() -> int:
    """Plan the architectures that the options name; return 1 if one is not as it must be."""
    parser = argparse.ArgumentParser(prog="benchmarks.architectures")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this model_type")
    parser.add_argument("--anew", action="store_true", help="those that have a row, too")
    parser.add_argument("--write", action="store_true", help="keep the result, write the table")
    given = parser.parse_args()
    known = sorted(model_types(), key=lambda name: (name not in ARCHITECTURES, name))
    kept = kept_rows() if given.write and not given.anew else []
    rows = {row["model_type"]: row for row in kept}
    for row in measured(given.only or [name for name in known if name not in rows]):
        rows[row["model_type"]] = row
        print(table([row]).splitlines()[-1], flush=True)
        if given.write:
            write([rows[name] for name in sorted(rows)], len(known))
    counts = summary(list(rows.values()))
    print(json.dumps(counts, indent=1))
    return int(any(counts[kind] for kind in WRONG))


def kept_rows() -> list[dict[str, Any]]:
    """Return the rows of the newest result."""
    *_, newest = [None, *sorted(RESULTS.glob("architectures--*.json"))]
    rows: list[dict[str, Any]] = []
    if newest is not None:
        rows = json.loads(newest.read_bytes())["measured"]["rows"]
    return rows


def write(rows: Sequence[dict[str, Any]], known: int) -> None:
    """Write the rows into the file of the day, in the place of older ones, and the table into the
    page."""
    counts = {"architectures that transformers builds": known, **summary(rows)}
    document = {
        "run": {"benchmark": "architectures", "machine": MACHINE, "limit_s": LIMIT_S},
        "measured": {**counts, "rows": list(rows)},
        "environment": host_environment(PACKAGES),
    }
    for older in RESULTS.glob("architectures--*.json"):
        older.unlink()
    file = RESULTS / f"architectures--{document['environment']['date']}.json"
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [f"| {kind} | {count:,} |" for kind, count in counts.items()]
    MARKS.write(PAGE, "\n".join(["| | |", "|---|---:|", *lines, "", table(rows)]))


if __name__ == "__main__":
    raise SystemExit(main())
