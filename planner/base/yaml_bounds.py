"""What a YAML text may ask of its parser: depth, and values behind aliases.

libyaml's composer recurses, so that a text nested 100,000 deep ends the process; an alias stands
for all that its anchor holds, so that few lines of aliases of aliases fill any memory. Both are
refused before anything is built.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.base.errors import InvalidFileError
from planner.base.phrases import Phrase
from planner.base.pyyaml import yaml
from planner.base.text_files import DEEPEST, bracket_depth

MOST_VALUES = 200_000
"""Values that a text may stand for, with every alias written out."""

_BRACKET = re.compile(r"[\[\]{}]")
_LINE_START = re.compile(r"^ *(?:[-?] +)*", re.MULTILINE)


def check_depth(text: str, path: Path) -> None:
    """Raise InvalidFileError where a text is nested deeper than ``DEEPEST`` levels."""
    if _may_be_deep(text) and any(depth > DEEPEST for depth in _depths(text)):
        raise InvalidFileError(
            path, None, Phrase("is nested deeper than {deepest} levels", deepest=DEEPEST)
        )


def check_aliases(text: str, path: Path, loader: type[Any]) -> None:
    """Raise InvalidFileError where aliases stand for too many values; self-reference counts."""
    if "&" in text and "*" in text and _num_values(yaml.compose(text, Loader=loader)) is None:
        raise InvalidFileError(
            path,
            None,
            Phrase(
                "its aliases stand for more than {most_values:,} values", most_values=MOST_VALUES
            ),
        )


def _may_be_deep(text: str) -> bool:
    """Return False only where no nesting is too deep: brackets within quotes count here too."""
    if bracket_depth(match[0] for match in _BRACKET.finditer(text)) > DEEPEST:
        return True
    return any(len(match[0]) > DEEPEST for match in _LINE_START.finditer(text))


def _depths(text: str) -> Iterator[int]:
    """Yield the depth after each event; parsing by events needs no stack."""
    opening = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
    closing = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, opening) - isinstance(event, closing)
            yield depth
    except yaml.YAMLError:
        return  # the parser proper says what is wrong


def _num_values(root: Any) -> int | None:
    """Return how many values a composed text stands for; None where they are too many."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        """At most the depth of the text in recursion; a node within itself never ends."""
        known = sizes.get(id(node))
        if known is None:
            sizes[id(node)] = MOST_VALUES  # until it is known, for aliases of itself
            known = sizes[id(node)] = 1 + sum(map(size, _children(node)))
        return known

    total = size(root)
    return total if total <= MOST_VALUES else None


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
