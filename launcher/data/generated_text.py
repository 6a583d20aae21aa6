"""Text of generated tokens, which may end inside a character."""

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Character by which tokenizers decode bytes that are no whole character."""
MOST_BYTES = 3
"""Bytes of a character in UTF-8 that has not ended, each of which may be decoded by itself."""


def whole_characters(text: str) -> str:
    r"""Return a decoded text without the incomplete character at its end.

    Tokens of byte-level tokenizers are parts of characters, so that a limit of tokens, or of
    patience, may cut one. Of a text that is nothing else, all is left.

    >>> whole_characters("caf\ufffd\ufffd"), whole_characters("caf\u00e9")
    ('caf', 'café')
    """
    end = text[-MOST_BYTES:].rstrip(INCOMPLETE)
    return text[:-MOST_BYTES] + end or text
