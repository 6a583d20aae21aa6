"""Predicted against measured peaks: ``python -m benchmarks.accuracy [--rows FILE] [--readme]``."""

import argparse
from pathlib import Path

from benchmarks.accuracy import ranges
from benchmarks.accuracy.predict import set_aside
from benchmarks.accuracy.table import MARKS, markdown, row_errors
from benchmarks.rows import read_rows

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"
README = Path(__file__).parent.parent.parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row")
    parser.add_argument("--source", help="with --each, only this one")
    parser.add_argument(
        "--readme", action="store_true", help="put the table, by source, into the README"
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
    table = markdown(rows, by_method=not options.readme, own=options.own)
    print(table)
    if options.readme:
        README.write_text(
            MARKS.with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
