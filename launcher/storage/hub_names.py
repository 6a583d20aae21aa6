"""Names of models and data sets on the hub, as opposed to paths on this machine."""


def names_a_folder(source: str) -> bool:
    """Return whether a source can only be a path: a hub id is ``name`` or ``owner/name``.

    >>> [names_a_folder(source) for source in ("gpt2", "owner/name", "./name", "~/name", "a/b/c")]
    [False, False, True, True, True]
    """
    return source.startswith((".", "/", "~")) or source.count("/") > 1
