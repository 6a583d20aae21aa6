"""Predicted against published throughput: ``python -m benchmarks.speed [--each] [--readme]``."""

import argparse
from pathlib import Path

from benchmarks.rows import read_rows
from benchmarks.speed import ranges
from benchmarks.speed.predict import measured_s, predicted
from benchmarks.speed.several_gpus import told_steps
from benchmarks.speed.table import MARKS, markdown, told_rows

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"
README = Path(__file__).parent.parent.parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row, and its parts")
    parser.add_argument(
        "--readme", action="store_true", help="put the table, by source, into the README"
    )
    parser.add_argument("--presets", action="store_true", help="only write its preset file")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    told = told_rows(rows)
    if options.presets:
        ranges.FILE.write_text(ranges.presets_text(told, told_steps()), encoding="utf-8")
        return
    if options.each:
        for each in told:
            parts = predicted(each.row)
            print(
                f"{each.row.id} {each.error:+.1%} measured {measured_s(each.row):.3f} s, "
                f"predicted {parts.total_s:.3f}: {parts}"
            )
    table = markdown(rows, told, by_method=not options.readme)
    print(table)
    if options.readme:
        README.write_text(
            MARKS.with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
