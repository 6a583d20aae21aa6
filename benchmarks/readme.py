"""Tables between marks in the README."""

from typing import NamedTuple


class Marks(NamedTuple):
    start: str
    end: str

    def with_table(self, readme: str, table: str) -> str:
        """Return the README's text with the table between the marks."""
        before, rest = readme.split(self.start)
        _, after = rest.split(self.end)
        return f"{before}{self.start}\n{table}\n{self.end}{after}"
