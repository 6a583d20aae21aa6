"""Text of generated tokens, which may end inside a character."""

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Character by which tokenizers decode bytes that are no whole character."""


def whole_characters(text: str) -> str:
    r"""Return a decoded text without the incomplete character at its end.

    Tokens of byte-level tokenizers are parts of characters, so that a limit of tokens, or of
    patience, may cut one.

    >>> whole_characters("caf\ufffd\ufffd"), whole_characters("caf\u00e9")
    ('caf', 'café')
    """
    return text.rstrip(INCOMPLETE)
