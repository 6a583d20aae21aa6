"""Predicted against measured peaks: ``python -m benchmarks.accuracy [--rows FILE] [--readme]``."""

import argparse
from pathlib import Path

from benchmarks.accuracy.predict import predicted, set_aside
from benchmarks.accuracy.table import markdown, with_table
from benchmarks.errors import relative_error
from benchmarks.rows import read_rows
from planner.units import format_gib

PUBLISHED = Path(__file__).parent.parent / "published" / "measured.csv"
README = Path(__file__).parent.parent.parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=PUBLISHED, help="another table of rows")
    parser.add_argument("--each", action="store_true", help="show every row")
    parser.add_argument("--readme", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    rows = read_rows(options.rows)
    if options.each:
        for row in rows:
            if set_aside(row) is None:
                peak, measured = predicted(row), row.readings["allocated"]
                error = relative_error(predicted=peak, measured=measured)
                print(f"{row.id:14} {format_gib(peak):>7} {format_gib(measured):>7} {error:+.2%}")
    table = markdown(rows)
    print(table)
    if options.readme:
        README.write_text(with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
