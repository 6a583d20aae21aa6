"""Sentences for people, which are English and can be said in another language at the edge.

A ``Phrase`` is an English text that remembers how it was made: what the code compares, logs and
writes into files is the text, and only where it reaches a person does ``spoken`` say it in the
language of the process. To add a sentence is to write it where it is needed, and its translation
into each file of presets/languages; ``tests/planner/base/test_phrases.py`` holds the files to the
sources.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, cast, get_args

Language = Literal["en", "zh"]
VARIABLE = "TUNEPLAN_LANGUAGE"
"""Environment variable by which a command hands its language to the processes that it starts."""
_LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Variables that name a locale, the strongest first: setlocale(3)."""


class Phrase(str):
    """An English text made of a template and values, which may be phrases themselves."""

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> "Phrase":
        """Return the text of a template such as ``{number:,} {number[token|tokens]}``: the first
        form is that of one, the other that of all else.
        """
        if "[" in template:
            values = {name: _counted(value) for name, value in values.items()}
        phrase = super().__new__(cls, template.format_map(values) if values else template)
        phrase.template, phrase.values = template, values
        return phrase

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make the phrase again, as pickle asks."""
        return partial(Phrase, self.template, **self.values), ()

    def __add__(self, other: str) -> "Phrase":
        return Joined("", (self, other)) if other else self

    def __radd__(self, other: str) -> "Phrase":
        return Joined("", (other, self)) if other else self

    def translated(self, table: Mapping[str, str]) -> str:
        """Return the text in the language of a table from templates to translations."""
        template = table.get(self.template, self.template)
        if not self.values:
            return template
        return template.format_map({name: _in(table, each) for name, each in self.values.items()})


class Number(int):
    """A number that knows the forms of words beside it: English has two, other languages may have
    one and leave them out of their templates."""

    def __getitem__(self, forms: str) -> str:
        """Return the form of this number, the singular standing first.

        >>> Number(1)["record|records"], Number(0)["record|records"]
        ('record', 'records')
        """
        one, several = forms.split("|")
        return one if self == 1 else several


def _counted(value: object) -> object:
    return Number(value) if isinstance(value, int) else value


class Joined(Phrase):
    """Phrases and other texts in a row, with a separator that is a phrase between them."""

    parts: tuple[str, ...]

    def __new__(cls, separator: str, parts: Iterable[str], /) -> "Joined":
        """Return the text of the parts in their order."""
        parts = tuple(parts)
        joined = str.__new__(cls, separator.join(parts))
        joined.template, joined.values, joined.parts = separator, {}, parts
        return joined

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make the phrase again, as pickle asks."""
        return Joined, (self.template, self.parts)

    def translated(self, table: Mapping[str, str]) -> str:
        """Return the parts and what is between them in the language of a table."""
        separator = table.get(self.template, self.template)
        return separator.join(_in(table, part) for part in self.parts)


class Reason(Phrase):
    """A phrase that says why, with a code by which programs know it in every version."""

    code: str

    def __new__(cls, code: str, text: str, /) -> "Reason":
        """Return the text as the reason with this code."""
        reason = str.__new__(cls, text)
        reason.template, reason.values, reason.code = "{text}", {"text": text}, code
        return reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make the reason again, as pickle asks."""
        return Reason, (self.code, self.values["text"])


def as_data(text: str) -> Any:
    """Return a text as JSON can hold it, so that another process can say it in its language.

    >>> as_data(Phrase("step {step} of {run}", step=2, run="a"))
    {'template': 'step {step} of {run}', 'values': {'step': 2, 'run': 'a'}}
    """
    match text:
        case Reason():
            return as_data(cast(str, text.values["text"]))
        case Joined():
            return {"separator": text.template, "parts": [as_data(part) for part in text.parts]}
        case Phrase():
            values = {name: _plain(value) for name, value in text.values.items()}
            return {"template": text.template, "values": values}
    return text


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return as_data(value)
    return value if isinstance(value, int | float) else str(value)


def from_data(data: Any) -> str:
    """Return the text that :func:`as_data` has made data of."""
    match data:
        case {"parts": parts, "separator": separator}:
            return Joined(Phrase(separator), map(from_data, parts))
        case {"template": template, "values": values}:
            return Phrase(template, **{name: from_data(value) for name, value in values.items()})
    return cast(str, data)


def _in(table: Mapping[str, str], value: object) -> str:
    return value.translated(table) if isinstance(value, Phrase) else cast(str, value)


_table: Mapping[str, str] = {}


def speak(table: Mapping[str, str]) -> None:
    """Set the language in which this process speaks from now on, by its table; English has none."""
    global _table
    _table = table


def spoken(text: str) -> str:
    """Return a phrase in the language of this process, and any other text as it is."""
    return text.translated(_table) if _table and isinstance(text, Phrase) else text


def language_of(environ: Mapping[str, str]) -> Language:
    """Return the language that the environment asks for, as gettext(3) reads it: the first of
    ``LANGUAGE`` that is known, else that of the locale.

    >>> language_of({"LANG": "zh_CN.UTF-8"}), language_of({"LANG": "de_DE.UTF-8"})
    ('zh', 'en')
    >>> language_of({"LANGUAGE": "zh_CN:en", "LANG": "en_US.UTF-8"})
    'zh'
    >>> language_of({"LANGUAGE": "zh_CN:en", "LC_ALL": "C"})
    'en'
    """
    locale = next(filter(None, (environ.get(name) for name in _LOCALE_VARIABLES)), None)
    if VARIABLE in environ:
        names = [environ[VARIABLE]]
    elif locale is not None and locale.partition(".")[0] in ("C", "POSIX"):
        names = []
    else:
        names = [*environ.get("LANGUAGE", "").split(":"), locale or ""]
    asked = [re.split("[_.@]", name.lower())[0] for name in names]
    known: tuple[Language, ...] = get_args(Language)
    return next((each for name in asked for each in known if each == name), "en")
