"""YAML that people read: keys in their order, and texts of several lines as they are."""

from typing import Any

import yaml


class _Readable(yaml.SafeDumper):
    """Block style for a text of several lines."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Readable.add_representer(str, _text)


def yaml_text(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(
        documents, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=1000
    )
