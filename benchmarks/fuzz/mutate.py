"""Valid input made invalid, by a generator of random numbers whose seed repeats it."""

import random
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400),
    *(0.0, -0.5, 1e-320, 1e308, float("inf"), float("nan")),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "\0", "\n", "null", "no", "1:30", "-", "--", "..", "../../etc/passwd", "/dev/zero"),
    *("\x1b[31mred", "\u202eright to left", "\ud800", "a" * 10_000, "{{ 7 * 7 }}", "$(id)", "%s"),
    *(
        "٣",
        "\uff11\uff12",
        "é",
        "\ufeff",
        "~",
        "*a",
        "&a",
        "<<",
        "!!python/object:os.system x",
        "9" * 5_000,
    ),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"a": {"b": []}}, [None] * 50)
FRAGMENTS: tuple[bytes, ...] = (
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"[" * 3_000, b"{" * 3_000, b'"', b"'", b"\\", b":"),
    *(b"\n", b"\t", b"- " * 500, b"&a [*a]", b"<<: *a\n", b"#", b",", b"\x1b]0;x\x07", b"1e999"),
)


def value(rng: random.Random) -> Any:
    """Return a value that hardly anybody expects."""
    return rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS)))


def argument(rng: random.Random) -> str:
    """Return such a value as one word of a command line, which cannot hold a null byte."""
    return str(value(rng)).replace("\0", "\x01")[:2_000]


def changed(content: Any, rng: random.Random) -> Any:
    """Return a copy of nested content with one to three of its places changed."""
    for _ in range(rng.randint(1, 3)):
        content = _changed(content, rng)
    return content


def _changed(content: Any, rng: random.Random) -> Any:
    if isinstance(content, dict) and content and rng.random() < 0.9:
        return _in_mapping(content, rng)
    if isinstance(content, list) and content and rng.random() < 0.9:
        return _in_list(content, rng)
    if isinstance(content, int | float) and not isinstance(content, bool) and rng.random() < 0.5:
        return rng.choice((content + 1, -content, content * 2, content // 2, content // 3))
    return value(rng)


def _in_mapping(content: dict[Any, Any], rng: random.Random) -> dict[Any, Any]:
    key, act = rng.choice(list(content)), rng.random()
    if act < 0.15:
        return {name: inner for name, inner in content.items() if name != key}
    if act < 0.25:
        return {**content, str(value(rng)): value(rng)}
    if act < 0.3:
        return {name if name != key else str(value(rng)): inner for name, inner in content.items()}
    return {**content, key: _changed(content[key], rng)}


def _in_list(content: list[Any], rng: random.Random) -> list[Any]:
    place, act = rng.randrange(len(content)), rng.random()
    if act < 0.2:
        return content[:place] + content[place + 1 :]
    if act < 0.4:
        return [*content, *content[place : place + 1] * rng.choice((1, 2, 1_000))]
    return [*content[:place], _changed(content[place], rng), *content[place + 1 :]]


def damaged(text: bytes, rng: random.Random) -> bytes:
    """Return a file's bytes with one to four of them lost, doubled, moved or replaced."""
    acts: Sequence[Callable[[bytes, random.Random], bytes]] = (_cut, _insert, _flip, _double)
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(acts)(text, rng)
    return text


def _place(text: bytes, rng: random.Random) -> int:
    return rng.randrange(len(text) + 1)


def _cut(text: bytes, rng: random.Random) -> bytes:
    start = _place(text, rng)
    return text[:start] + text[start + rng.choice((1, 2, 10, 100, len(text))) :]


def _insert(text: bytes, rng: random.Random) -> bytes:
    place = _place(text, rng)
    return text[:place] + rng.choice(FRAGMENTS) + text[place:]


def _flip(text: bytes, rng: random.Random) -> bytes:
    place = _place(text, rng)
    return text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]


def _double(text: bytes, rng: random.Random) -> bytes:
    start = _place(text, rng)
    part = text[start : start + rng.choice((1, 20, 200))]
    return text[:start] + part * rng.choice((1, 2, 50)) + text[start:]
