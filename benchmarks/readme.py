"""Tables between marks of the README."""

from typing import NamedTuple


class Marks(NamedTuple):
    start: str
    end: str

    def with_table(self, readme: str, table: str) -> str:
        """The README's text with the table between them."""
        before, rest = readme.split(self.start)
        _, after = rest.split(self.end)
        return f"{before}{self.start}\n{table}\n{self.end}{after}"
