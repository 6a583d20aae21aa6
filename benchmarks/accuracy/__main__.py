"""Predicted against measured peaks: ``python -m benchmarks.accuracy [--rows FILE] [--readme]``."""

import argparse
from pathlib import Path

from benchmarks.accuracy.predict import MEASURED_AS, Reading, measured, predicted, set_aside
from benchmarks.accuracy.table import markdown, with_table
from benchmarks.errors import relative_error
from benchmarks.rows import Row, read_rows

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"
README = Path(__file__).parent.parent.parent / "README.md"


def _error(row: Row, reading: Reading, num_bytes: int) -> str:
    found = measured(row).get(MEASURED_AS[reading])
    if found is None:
        return f"{reading}: not measured"
    return f"{reading} {relative_error(predicted=num_bytes, measured=found):+.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row")
    parser.add_argument("--source", help="with --each, only this one")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    if options.each:
        for row in rows:
            if set_aside(row) is None and (not options.source or row.source == options.source):
                print(
                    row.id,
                    *(_error(row, reading, size) for reading, size in predicted(row).items()),
                )
    table = markdown(rows)
    print(table)
    if options.readme:
        README.write_text(with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
