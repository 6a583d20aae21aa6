"""A function's signature as a command line, by the standard library alone: ``plan`` has answered
before a larger parser is imported."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from planner.base.command_line import fail
from planner.base.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Option:
    """What ``Annotated`` says of a parameter that is an option."""

    help: str
    flags: tuple[str, ...] = ()
    """Names beside the parameter's own, or in its place where one is long."""
    minimum: float | None = None


class _Parser(argparse.ArgumentParser):
    """A mistake is one line."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            known = [flag for action in self._actions for flag in action.option_strings]
            first = unknown.split()[0].split("=")[0]
            message = f"no such option: {first}. {did_you_mean(first, known)}".rstrip()
        fail(f"{message} (--help shows the options)", UserError.exit_code)


def run_command(command: Callable[..., None]) -> None:
    """Run one command as the whole program."""
    parser = _Parser(
        prog=command.__name__.rstrip("_"),
        description=command.__doc__,
        allow_abbrev=False,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
    )
    parser.add_argument("-h", "--help", action="help", help="Show the options.")
    for name, hint in get_type_hints(command, include_extras=True).items():
        if name != "return":
            _add(parser, name, hint, (command.__kwdefaults__ or {}).get(name))
    given = vars(parser.parse_args())
    try:
        command(**given)
    except UserError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _add(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any) -> None:
    kind, option = get_args(hint)
    assert isinstance(option, Option)
    long = [flag for flag in option.flags if flag.startswith("--")]
    short = [flag for flag in option.flags if not flag.startswith("--")]
    flags = [*short, *(long or [f"--{name.replace('_', '-')}"])]
    settings: dict[str, Any] = {"dest": name, "default": default, "help": option.help}
    kind = _without_none(kind)
    if kind is bool:
        action = "store_true" if default is False else argparse.BooleanOptionalAction
        parser.add_argument(*flags, action=action, **settings)
    elif get_origin(kind) is Literal:
        choices = get_args(kind)
        parser.add_argument(*flags, choices=choices, metavar="|".join(choices), **settings)
    else:
        value = {int: "N", float: "X", Path: "FILE"}.get(kind, "TEXT")
        read = _number(kind, option.minimum) if kind in (int, float) else kind
        parser.add_argument(*flags, type=read, metavar=value, **settings)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return next(each for each in get_args(kind) if each is not NoneType)
    return kind


def _number(kind: type[int] | type[float], minimum: float | None) -> Callable[[str], float]:
    noun = "whole number" if kind is int else "number"

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no {noun}") from error
        if minimum is not None and not number >= minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        return number

    return read
