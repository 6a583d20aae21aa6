"""Predicted against published throughput: ``python -m benchmarks.speed [--each] [--write]``."""

import argparse
from pathlib import Path

from benchmarks.marks import ACCURACY_PAGE
from benchmarks.rows import read_rows
from benchmarks.speed import ranges
from benchmarks.speed.predict import measured_s, predicted
from benchmarks.speed.several_gpus import told_steps
from benchmarks.speed.table import MARKS, markdown, told_rows

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row, and its parts")
    parser.add_argument(
        "--write", action="store_true", help="put the table, by source, into the documentation"
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
    table = markdown(rows, told, by_method=not options.write)
    print(table)
    if options.write:
        MARKS.write(ACCURACY_PAGE, table)


if __name__ == "__main__":
    main()
