"""Generated tables in a document, each between two marks."""

from pathlib import Path
from typing import NamedTuple

from planner.base.phrases import Language

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
README_ZH = ROOT / "README.zh-CN.md"
READMES: dict[Language, Path] = {"en": README, "zh": README_ZH}
"""The first page of each language."""
ACCURACY_PAGE = ROOT / "docs" / "explanation" / "accuracy.md"


class Marks(NamedTuple):
    start: str
    end: str

    def with_table(self, text: str, table: str) -> str:
        """Return a document's text with the table between the marks."""
        before, rest = text.split(self.start)
        _, after = rest.split(self.end)
        return f"{before}{self.start}\n\n{table}\n\n{self.end}{after}"

    def write(self, document: Path, table: str) -> None:
        """Put the table between the marks of a document."""
        text = document.read_text(encoding="utf-8")
        document.write_text(self.with_table(text, table), encoding="utf-8")
