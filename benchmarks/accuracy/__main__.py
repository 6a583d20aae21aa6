"""Predicted against measured peaks: ``python -m benchmarks.accuracy [--rows FILE] [--write]``."""

import argparse
from pathlib import Path

from benchmarks.accuracy import ranges
from benchmarks.accuracy.predict import set_aside
from benchmarks.accuracy.table import MARKS, markdown, row_errors
from benchmarks.marks import ACCURACY_PAGE
from benchmarks.rows import read_rows

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row")
    parser.add_argument("--source", help="with --each, only this one")
    parser.add_argument(
        "--write", action="store_true", help="put the table, by source, into the documentation"
    )
    parser.add_argument(
        "--own", type=Path, action="append", default=[], help="a folder that launch --record left"
    )
    parser.add_argument("--presets", action="store_true", help="only write presets/accuracy.yaml")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    if options.presets:
        ranges.FILE.write_text(ranges.presets_text(rows), encoding="utf-8")
        return
    if options.each:
        for row in rows:
            if set_aside(row) is None and (not options.source or row.source == options.source):
                print(row.id, *(f"{name} {error:+.2%}" for name, error in row_errors(row).items()))
    table = markdown(rows, by_method=not options.write, own=options.own)
    print(table)
    if options.write:
        MARKS.write(ACCURACY_PAGE, table)


if __name__ == "__main__":
    main()
