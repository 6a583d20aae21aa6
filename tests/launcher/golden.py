"""Recorded texts, compared whole; a test never writes them."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "golden"


def assert_golden(name: str, text: str, scratch: Path) -> None:
    expected = FOLDER / name
    new = scratch / name
    new.write_text(text, encoding="utf-8")
    recorded = expected.read_text(encoding="utf-8") if expected.is_file() else ""
    assert text == recorded, f"accept the change with: cp {new} {expected}"
