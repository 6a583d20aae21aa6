"""YAML for people: keys stay in order, and a text of several lines is a block."""

from typing import Any

import yaml


class _Readable(yaml.SafeDumper):
    """The dumper that writes a text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Readable.add_representer(str, _text)


def yaml_text(*documents: dict[str, Any]) -> str:
    """Return one text with all documents."""
    return yaml.dump_all(
        documents, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=1000
    )
