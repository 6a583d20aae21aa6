"""The options of a command as a table, from the function whose signature is its command line."""

from argparse import Action, BooleanOptionalAction
from collections.abc import Callable
from typing import Any

from planner.base.command_line import _parser


def option_tables(command: Callable[..., Any]) -> str:
    """Return a table of arguments and options for every group of a command's help."""
    parser = _parser(command)
    groups = [group for group in parser._action_groups if group._group_actions]
    parts = [f"{parser.description}"]
    for group in groups:
        if len(groups) > MOST_UNNAMED:
            parts.append(f"### {group.title}")
        rows = [_row(action) for action in sorted(group._group_actions, key=_name)]
        parts.append("\n".join(["| option | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts)


MOST_UNNAMED = 2
"""Groups that argparse makes by itself: arguments and options."""


def _name(action: Action) -> str:
    return next((flag for flag in action.option_strings if flag.startswith("--")), "")


def _row(action: Action) -> str:
    takes_none = action.nargs == 0 or isinstance(action, BooleanOptionalAction)
    value = "" if takes_none else _metavar(action)
    flags = action.option_strings or [""]
    named = ", ".join(f"`{' '.join(filter(None, (flag, value)))}`" for flag in flags)
    cells = (named, (action.help or "").replace("%%", "%"))
    return " ".join(["|", *(cell.replace("|", r"\|") + " |" for cell in cells)])


def _metavar(action: Action) -> str:
    metavar = action.metavar or action.dest.upper()
    return " ".join(metavar) if isinstance(metavar, tuple) else metavar
