"""Texts that are made to exhaust whoever reads them are one line, at once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import InvalidFileError
from planner.base.strict_json import parse_json
from planner.base.strict_yaml import parse_yaml
from planner.base.text_files import MOST_BYTES, read_text

HERE = Path("file")
LAUGHS = "k0: &a0 [x, x]\n" + "".join(
    f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)
MERGES = "k0: &a0 {x: 1}\n" + "".join(
    f"k{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
)
YAML = {
    "flow": ("[" * 5_000, "nested deeper than 100 levels"),
    "flow mappings": ("{a: " * 5_000, "nested deeper than 100 levels"),
    "indented": ("\n".join(" " * n + "a:" for n in range(2_000)), "nested deeper"),
    "dashes": ("- " * 5_000 + "1", "nested deeper than 100 levels"),
    "laughs": (LAUGHS, "aliases stand for more than"),
    "merges": (MERGES, "aliases stand for more than"),
    "itself": ("a: &a [*a]", "aliases stand for more than"),
    "merged with itself": ("a: &a\n  <<: *a", "aliases stand for more than"),
    "list as key": ("? [a]\n: 1", "file:1: not YAML: a key is a text"),
    "mapping as key": ("b: 1\n? {a: 1}\n: 2", "file:2: not YAML: a key is a text"),
    "digits": ("a: " + "9" * 5_000, "not YAML: Exceeds the limit"),
    "date": ("a: 2001-99-99", "not YAML: month must be in 1..12"),
    "object": ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
}
JSON = {
    "lists": ("[" * 100_000, "nested deeper than 100 levels"),
    "objects": ('{"a":' * 100_000, "nested deeper than 100 levels"),
    "digits": ("9" * 5_000, "the number 99999999999999999999... is too large"),
    "float": ("1e999", "the number 1e999 is too large"),
    "NaN": ("NaN", "NaN is not a number of JSON's"),
    "surrogate": ('{"a": "\\ud800"}', "half a surrogate pair"),
    "no end": ('"' + "\\" * 99_999, "Unterminated string"),
}


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [
        *(pytest.param(parse_yaml, *case, id=f"yaml-{name}") for name, case in YAML.items()),
        *(pytest.param(parse_json, *case, id=f"json-{name}") for name, case in JSON.items()),
    ],
)
def test_one_line(parse: Callable[[str, Path], Any], text: str, reason: str) -> None:
    with pytest.raises(InvalidFileError) as raised:
        parse(text, HERE)
    assert reason in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 200


def test_what_only_seems_deep_is_read() -> None:
    brackets = "[" * 1_000
    assert parse_yaml(f"a: '{brackets}'", HERE) == {"a": brackets}
    assert parse_json(f'{{"a": "{brackets}\\""}}', HERE) == {"a": brackets + '"'}
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", HERE)["b"] == {"x": 1, "y": 2}


def test_infinities_of_published_configurations_are_read() -> None:
    """transformers 4 wrote them for Mamba-2, Bamba, Granite's hybrids and others."""
    text = '{"time_step_limit": [0.0, Infinity]}'
    assert parse_json(text, HERE) == {"time_step_limit": [0.0, float("inf")]}


def test_only_files_are_read_and_only_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name, reason in {
        "pipe": "is not a regular file",
        ".": "is not a regular file",
        "large": "has 16,777,217 bytes, and at most 16,777,216 are read",
        "latin": "is not UTF-8 text",
        "missing": "No such file",
        "nul\0": "null byte",
    }.items():
        with pytest.raises(InvalidFileError, match=reason):
            read_text(tmp_path / name)


def test_a_name_with_a_line_end_is_in_one_line() -> None:
    """And one that would clear the terminal is shown, not obeyed."""
    error = InvalidFileError(HERE, 1, "fields are 指令, a\nb\u2028c, \x1b[2J\ud800")
    assert str(error) == "file:1: fields are 指令, a\\nb\\u2028c, \\x1b[2J\\ud800"
