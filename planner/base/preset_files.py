"""The names of files in ``presets/`` and their aliases, and the sentences of other languages."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import presets
from planner.base.errors import UnknownNameError
from planner.base.phrases import Language
from planner.base.strict_yaml import Spec, parse_yaml
from planner.base.text_files import read_text

Kind = Literal["models", "gpus", "recipes"]
Listed = Literal["models", "gpus", "recipes", "networks", "optimizers", "measurements"]
"""What ``plan --list`` shows."""
ROOT = Path(presets.__path__[0])


class Source(Spec):
    """The place where a group of facts was read."""

    title: str
    """Title of the document or file."""
    url: str
    """Address of the document, at a revision where it has one."""
    note: str | None = None
    """What a reader of the source should know."""


@cache
def translations(language: Language) -> dict[str, str]:
    """Return the translation of every template of phrases; none for English, which they are in."""
    if language == "en":
        return {}
    path = ROOT / "languages" / f"{language}.yaml"
    sections: dict[str, dict[str, str]] = parse_yaml(read_text(path), path)
    return {template: text for section in sections.values() for template, text in section.items()}


def preset_names(kind: Kind) -> list[str]:
    """Return the names of every preset of a kind, sorted."""
    return sorted(path.stem for path in (ROOT / kind).glob("*.yaml"))


@cache
def aliases(kind: Kind) -> dict[str, str]:
    """Return every short name of a kind, and the preset it stands for."""
    table: dict[str, dict[str, str]] = parse_yaml(
        read_text(ROOT / "aliases.yaml"), ROOT / "aliases.yaml"
    )
    return table.get(kind, {})


def resolve_name(
    kind: Kind, noun: str, name: str, more_aliases: Mapping[str, str] | None = None
) -> str:
    """Return the preset's own name for a name or an alias.

    Raises ``UnknownNameError``, which suggests the nearest one.
    """
    wanted = name.lower()
    if _is_preset(kind, wanted):
        return wanted
    table = {**aliases(kind), **(more_aliases or {})}
    if wanted in table:
        return table[wanted]
    raise UnknownNameError(noun, name, [*preset_names(kind), *table], see=f"plan --list {kind}")


def _is_preset(kind: Kind, name: str) -> bool:
    return "/" not in name and (ROOT / kind / f"{name}.yaml").is_file()
