"""The names of files in ``presets/`` and their aliases, the user's own cards and recipes beside
them, and the sentences of other languages."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import presets
from planner.base.errors import InvalidFileError, InvalidRequestError, UnknownNameError
from planner.base.phrases import Language, Phrase
from planner.base.strict_yaml import Spec, parse_yaml
from planner.base.text_files import read_text
from planner.base.user_folders import home_folder

Kind = Literal["models", "gpus", "recipes"]
Listed = Literal["models", "gpus", "recipes", "networks", "optimizers", "measurements"]
"""What ``plan --list`` shows."""
OWN_KINDS: tuple[Kind, ...] = ("gpus", "recipes")
"""Kinds that users may add to in :func:`config_directory`."""
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


def config_directory() -> Path | None:
    """Return the folder of the user's own cards and recipes, which XDG_CONFIG_HOME can move; None
    for a user without a home folder."""
    root = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(root) if root else home_folder() / ".config") / "tuneplan"
    except InvalidRequestError:
        return None


def own_files(kind: Kind) -> dict[str, Path]:
    """Return the user's own files of a kind by name, which is that of the file in lower case."""
    folder = config_directory() if kind in OWN_KINDS else None
    if folder is None or not folder.is_dir():
        return {}
    return {path.stem.lower(): path for path in sorted((folder / kind).glob("*.yaml"))}


def check_own_name(file: Path, name: str) -> None:
    """Raise ``InvalidFileError`` if one of the user's own files is called otherwise than what it
    describes, since only the file's name would be found."""
    if name != file.stem.lower():
        reason = Phrase(
            "name: it should be {name!r}, as the file is called", name=file.stem.lower()
        )
        raise InvalidFileError(file, None, reason)


def preset_names(kind: Kind) -> list[str]:
    """Return the names of every preset of a kind and of the user's own ones, sorted."""
    return sorted({*(path.stem for path in (ROOT / kind).glob("*.yaml")), *own_files(kind)})


def preset_file(kind: Kind, name: str) -> Path | None:
    """Return the file of a name, the user's own before a preset; None if no file has it."""
    own = own_files(kind).get(name)
    if own is not None:
        return own
    preset = ROOT / kind / f"{name}.yaml"
    return preset if "/" not in name and preset.is_file() else None


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
    if preset_file(kind, wanted) is not None:
        return wanted
    table = {**aliases(kind), **(more_aliases or {})}
    if wanted in table:
        return table[wanted]
    raise UnknownNameError(noun, name, [*preset_names(kind), *table], see=f"plan --list {kind}")
