"""Errors of other memory estimators on published measurements.

python -m benchmarks.peers --rows FILE [--write]
"""

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.peers import environments
from benchmarks.peers.compare import Comparison, compare, questions
from benchmarks.peers.express import PEERS
from benchmarks.peers.model_files import LocalModel, preset_for, write_model
from benchmarks.peers.table import tables
from benchmarks.rows import TIERS, Row, read_rows

RESULTS = environments.ROOT / "benchmarks" / "results"
PIPED_WIDTH = 110


def local_models(rows: Iterable[Row], hub: Path) -> dict[str, LocalModel]:
    """Write the files of every model of the rows that has a preset."""
    found = {row.model: preset_for(row.model, row.params) for row in rows}
    return {model: write_model(preset, hub) for model, preset in found.items() if preset}


def run(rows: Sequence[Row]) -> list[Comparison]:
    comparisons = []
    with tempfile.TemporaryDirectory() as hub:
        models = local_models(rows, Path(hub))
        for peer in PEERS:
            asked, reasons = questions(peer, rows, models)
            python = environments.interpreter(peer.requirement)
            settings = [question.setting for question in asked]
            answers = environments.ask(python, peer.script, settings, Path(hub))
            comparisons.append(compare(peer, asked, answers, reasons))
    return comparisons


def result(
    rows_file: Path, rows: Sequence[Row], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    return {
        "run": {
            "benchmark": "peers",
            "command": "python -m benchmarks.peers --rows FILE --write",
            "rows_file": rows_file.name,
            "rows_sha256": hashlib.sha256(rows_file.read_bytes()).hexdigest(),
            "tiers": list(TIERS),
            "sequence_length": "exact",
            "rows": len(rows),
        },
        "measured": {each.peer.name: measured(each) for each in comparisons},
        "environment": {
            "peers": {
                each.peer.name: environments.installed(
                    environments.interpreter(each.peer.requirement)
                )
                for each in comparisons
            },
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "date": time.strftime("%Y-%m-%d"),
        },
    }


def measured(comparison: Comparison) -> dict[str, Any]:
    peer = comparison.peer
    return {
        "requirement": peer.requirement,
        "compared": dict(peer.compared),
        "notes": peer.notes,
        "errors": [
            asdict(group) | {name: rounded(value) for name, value in asdict(error).items()}
            for group, error in comparison.errors.items()
        ],
        "rows": [
            {
                "id": each.row.id,
                "evidence": peer.evidence(each.row),
                "predicted_bytes": dict(each.predicted),
                "measured_bytes": dict(each.row.readings),
            }
            for each in comparison.predictions
        ],
        "not_expressed": dict(comparison.not_expressed.most_common()),
    }


def rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="table of measured runs (CSV)")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    comparisons = run(rows)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    console.print(tables(comparisons))
    if options.write:
        text = json.dumps(result(options.rows, rows, comparisons), indent=2) + "\n"
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"peers--{time.strftime('%Y-%m-%d')}.json"
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
