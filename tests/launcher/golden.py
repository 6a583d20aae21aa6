"""Recorded texts, compared whole; a test never writes them."""

from difflib import unified_diff
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def assert_golden(name: str, text: str, scratch: Path) -> None:
    expected = FOLDER / name
    new = scratch / name
    new.write_text(text, encoding="utf-8")
    recorded = expected.read_text(encoding="utf-8") if expected.is_file() else ""
    lines = unified_diff(recorded.splitlines(), text.splitlines(), name, "now", lineterm="")
    difference = "\n".join(lines)
    assert text == recorded, f"\n{difference}\naccept the change with: cp {new} {expected}"
