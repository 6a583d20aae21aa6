"""``python -m launcher.compat.check_internals``: which internals of libraries have changed?

Prints one line per name of the table that is gone or has another signature on the installed
versions; exits with 1 if there is one.
"""

import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from launcher.compat.internals import LIBRARIES, Internal, Library
from launcher.compat.torch_dispatch import schema_of

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def changes(library: Library) -> Iterator[str]:
    """Yield what does not hold of the library's names, a sentence per name.

    Imports the library. Raises ``ImportError`` if it is not installed.
    """
    import_module(library.name)
    for internal in library.internals:
        change = _change(internal)
        if change is not None:
            yield f"{internal.name} {change} ({internal.use})"


def _change(internal: Internal) -> str | None:
    try:
        found = pkgutil.resolve_name(internal.name)
    except (AttributeError, ImportError):
        return "is gone"
    if internal.parameters is not None:
        change = _changed_parameters(found, internal.parameters)
        if change is not None:
            return change
    absent = [text for text in internal.mentions if text not in _source(found)]
    return f"does not mention {', '.join(absent)}" if absent else None


def _changed_parameters(function: Any, wanted: tuple[str, ...]) -> str | None:
    try:
        known = _parameters(function)
    except ValueError:
        return "has no signature"
    missing = [name for name in wanted if name not in known]
    if missing:
        return f"has no parameter {', '.join(missing)}"
    added = [name for name, required in known.items() if required and name not in wanted]
    return f"requires {', '.join(added)}" if added else None


def _parameters(function: Any) -> dict[str, bool]:
    """Return the parameters of a function or operator, and whether each is required.

    Raises ``ValueError`` for a function written in C.
    """
    if hasattr(function, "_schema"):
        arguments = schema_of(function).arguments
        return {argument.name: not argument.has_default_value() for argument in arguments}
    return {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind not in _STARRED
    }


def _source(thing: Any) -> str:
    """Return the source of a module, class, function or property, or a constant as text."""
    if isinstance(thing, property):
        thing = thing.fget
    try:
        return inspect.getsource(thing)
    except TypeError:
        return str(thing)


def main() -> None:
    """Print what has changed in any library."""
    found = [change for library in LIBRARIES for change in changes(library)]
    for change in found:
        print(change)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
