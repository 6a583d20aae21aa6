"""Units at the edges: the only conversions between bytes and what people read or write."""

import re

from planner.base.phrases import Phrase

KIB = 2**10
MIB = 2**20
GIB = 2**30
MOST = 10**15
"""Larger than any number of bytes, parameters or tokens of a file or an option: 1 PB of memory."""
LARGEST = 1e30
"""Larger than any number with a fraction."""
FP32_BYTES = 4
"""Bytes of one number in fp32."""
ALLOCATOR_BLOCK_BYTES = 512
"""read: c10/core/AllocatorConfig.h at PyTorch 2.13, kMinBlockSize: the CUDA allocator rounds
every request up to it."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|MiB|G|M)", re.IGNORECASE)


def ceil_div(numerator: int, denominator: int) -> int:
    """Return the quotient rounded up: the most loaded rank decides.

    >>> ceil_div(7, 2)
    4
    """
    return -(-numerator // denominator)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is not below ``number``.

    >>> round_up(513, 512)
    1024
    """
    return -(-number // multiple) * multiple


def block(num_bytes: int) -> int:
    """Return the bytes that the CUDA allocator gives for a request.

    >>> block(1), block(512)
    (512, 512)
    """
    return round_up(num_bytes, ALLOCATOR_BLOCK_BYTES)


def parse_size(text: str) -> int:
    """Return the bytes of a size as people write it; ``G`` means GiB, as on a card's label.

    Raises ValueError, whose message says how to write one.

    >>> parse_size("22GiB") == parse_size("22G") == 22 * GIB
    True
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            Phrase("{text!r} is not a size; write for example 24G or 22.5GiB", text=text)
        )
    unit = GIB if match[2].lower().startswith("g") else MIB
    size = float(match[1]) * unit
    if size > MOST:
        raise ValueError(
            Phrase(
                "{text!r} is more than {most:,}G: no device has so much",
                text=text[:20],
                most=MOST // GIB,
            )
        )
    return round(size)


def format_gib(num_bytes: int, digits: int = 2) -> str:
    """Return GiB with a fixed number of decimals.

    >>> format_gib(3 * GIB // 2)
    '1.50'
    """
    return f"{num_bytes / GIB:,.{digits}f}"


def short_gib(num_bytes: int) -> str:
    """Return GiB with one decimal, or with two below one GiB.

    >>> short_gib(3 * GIB // 2), short_gib(GIB // 50)
    ('1.5', '0.02')
    """
    return format_gib(num_bytes, 1 if num_bytes >= GIB else 2)


def format_count(number: float) -> str:
    """Return a decimal count with three significant digits.

    >>> format_count(6_243_584_000), format_count(14_823_424), format_count(950)
    ('6.24 B', '14.8 M', '950')
    """
    for size, suffix in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            value = number / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{digits}f}{suffix}"
    return f"{number:.0f}"


def format_rate(number: float) -> str:
    """Return a rate with three significant digits, written out.

    >>> format_rate(3_453.2), format_rate(0.8541), format_rate(1_234_567)
    ('3,450', '0.854', '1,230,000')
    """
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"


def format_share(share: float, digits: int = 0) -> str:
    """Return a share as a percentage.

    >>> format_share(0.623), format_share(0.0123, 1)
    ('62 %', '1.2 %')
    """
    return f"{100 * share:.{digits}f} %"


def format_duration(seconds: float) -> Phrase:
    """Return a duration in its two largest units.

    >>> format_duration(0.25), format_duration(75), format_duration(7_500), format_duration(200_000)
    ('0.25 s', '1 min 15 s', '2 h 05 min', '2 d 07 h')
    """
    if seconds < 60:
        return Phrase("{s} s", s=f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return Phrase("{min} min {s:02d} s", min=minutes, s=rest)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return Phrase("{h} h {min:02d} min", h=hours, min=minutes)
    days, hours = divmod(hours, 24)
    return Phrase("{d} d {h:02d} h", d=days, h=hours)
