"""Names that may stand for a model or a data set on the hub, told from places on this machine."""


def names_a_folder(source: str) -> bool:
    """Whether a source can only be meant as a place here: a hub id is ``name`` or ``owner/name``.

    >>> [names_a_folder(source) for source in ("gpt2", "owner/name", "./name", "~/name", "a/b/c")]
    [False, False, True, True, True]
    """
    return source.startswith((".", "/", "~")) or source.count("/") > 1
