"""The grammar of every command: a function whose signature is its command line.

A parameter is ``Annotated[TYPE, Argument(...)]`` or ``Annotated[TYPE, Option(...)]``. Its type says
what is accepted:

- ``str``, ``Path``, ``int``, ``float``, ``Literal[...]``: one value;
- ``list[T]``: an option that may be repeated;
- ``tuple[T, T]``: an option of several values; ``tuple[T, ...]``: of one or more;
- ``bool``: a flag; unless it defaults to False it can be negated: ``--packing``, ``--no-packing``.

Its docstring is the help: the first sentence describes it, and what follows, such as examples, is
printed after the options as it is written. Options stand in the help in the groups they name.

The parser is the standard library's: importing a larger one would slow the start of ``plan``.
"""

import argparse
import errno
import inspect
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TextIO, get_args, get_origin

from msgspec import Struct

from planner.base.errors import InvalidRequestError, UserError, did_you_mean, exhausted, one_line
from planner.base.interruptions import unread_stream
from planner.base.phrases import VARIABLE, Joined, Language, Phrase, language_of, speak, spoken
from planner.base.printable import print_text, shown_on_one_line
from planner.base.units import LARGEST, MOST

HELP_COLUMNS = (60, 140)
"""Fewest and most columns of the help text, which is as wide as the terminal in between."""
FLAG_COLUMNS = 34
"""Columns of the options' names in the help, if it is wide enough."""
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 plus the number of SIGINT, as in shells."""


class Argument(Struct, frozen=True):
    """A positional argument: what the help says of it."""

    help: str
    metavar: str | None = None
    """Name of its value in the help; for several values, their names separated by spaces."""


class Option(Argument, frozen=True):
    """An option: what the help says of it, and what it is called."""

    flags: tuple[str, ...] = ()
    """Flags besides the one made from the parameter's name; a long flag replaces that one."""
    minimum: float | None = None
    """Least number accepted."""
    maximum: float | None = None
    """Greatest number accepted; None is the greatest of any option, as in files."""
    group: str | None = None
    """Heading of the help under which it stands; None is that of ``--help``."""
    known: Callable[[], Iterable[str]] | None = None
    """Function that returns names which are accepted among others, for the completion in shells."""


ALWAYS = {
    ("-h", "--help"): Phrase("Show this help."),
    ("--version",): Phrase("Show the versions of tuneplan and of the installed training packages."),
}
"""Flags that every command has, and what the help says of them."""
LANGUAGE = Option(
    "Language of the output, instead of that of LANGUAGE or LANG.", flags=("--language",)
)
"""The option of every command that takes effect before its arguments are read."""


def run_command(command: Callable[..., int | None]) -> int:
    """Run a command as the whole program and return its exit code.

    A user's mistake is one line on stderr; a bug keeps its traceback.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a locale without the letters of a name is no error
            stream.reconfigure(errors="backslashreplace")
    errors = sys.stderr
    if isinstance(errors, TextIOWrapper) and errors is sys.__stderr__:
        sys.stderr = unread_stream(errors.fileno(), encoding=errors.encoding, closefd=False)
    _speak_as_asked(sys.argv[1:])
    try:
        code = command(**parse_arguments(command, sys.argv[1:]))
        sys.stdout.flush()
    except UserError as error:
        _show(error.message)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return _exit_code_of(error)
    return code or 0


def _open_closed_streams() -> None:
    """Discard what is written to standard streams that the caller has closed.

    Python has None for these, and the next file that is opened would get their number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def asked_language(arguments: Sequence[str]) -> Language | None:
    """Return the language of ``--language``; None without it.

    It is looked for before the arguments are parsed, since the help and their errors are in it.
    """
    for argument, following in pairwise([*arguments, ""]):
        flag, _, value = argument.partition("=")
        if flag in LANGUAGE.flags:
            return language_of({VARIABLE: value or following})
    return None


def _speak_as_asked(arguments: Sequence[str]) -> None:
    """Set the language of this process: that of ``--language``, which the processes that a command
    starts speak too, else the environment's if the terminal has its letters."""
    asked = asked_language(arguments)
    if asked is not None:
        os.environ[VARIABLE] = asked
    language = asked or language_of(os.environ)
    if language != "en" and (asked or _has_han_characters(sys.stdout)):
        from planner.base.preset_files import translations  # only another language needs it

        speak(translations(language))
    else:
        speak({})


def _has_han_characters(stream: TextIO) -> bool:
    """Return whether the encoding of a stream has the letters of Chinese."""
    try:
        "\u663e".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _show(error: str) -> None:
    line = spoken(Phrase("error: {message}", message=error))
    print_text(shown_on_one_line(one_line(line)), file=sys.stderr)


def _exit_code_of(error: OSError) -> int:
    """Return the exit code for an error that an option or the reader of the output caused.

    Any other error is raised again.
    """
    if error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)[-40:]
        _show(Phrase("the name that ends with {name!r} is too long for a file", name=name))
        return UserError.exit_code
    lacking = exhausted(error)
    if lacking is not None:
        _show(lacking.message)
        return lacking.exit_code
    if isinstance(error, BrokenPipeError) and not _is_read(sys.stdout):
        # A reader that has enough, such as head, ends this process, as it ends any filter.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    raise error


def parse_arguments(command: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of a command's parameters by name.

    Raises InvalidRequestError for arguments that the command does not accept.
    """
    parser = _parser(command)
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="replace").decode():
            raise InvalidRequestError(
                Phrase("{text!r} is not UTF-8 text: rename what it names", text=argument)
            )
    values, rest = parser.parse_known_intermixed_args(arguments)
    for argument in rest:
        if argument != "--":
            parser.refuse(argument)
    return vars(values)


def written_options(command: Callable[..., Any], values: Mapping[str, Any]) -> list[str]:
    """Return the options that ``parse_arguments`` reads as these values, without defaults.

    Values are by name of the parameter; those that are missing have their defaults.
    """
    return [
        argument
        for name, parameter in inspect.signature(command).parameters.items()
        if values.get(name, parameter.default) != parameter.default
        for argument in _written_option(parameter, values[name])
    ]


def _written_option(parameter: inspect.Parameter, value: Any) -> Iterator[str]:
    flags = [flag for flag in option_flags(parameter) if flag.startswith("--")]
    if isinstance(value, bool):
        yield flags[0 if value else -1]
    elif isinstance(value, tuple):
        yield from (flags[0], *map(str, value))
    else:
        for each in value if isinstance(value, list) else [value]:
            text = str(each)
            yield from [f"{flags[0]}={text}"] if _like_a_flag(text) else [flags[0], text]


def _like_a_flag(text: str) -> bool:
    return text.startswith("-")


class _Parser(argparse.ArgumentParser):
    """A parser that raises errors instead of printing them."""

    def error(self, message: str) -> NoReturn:
        if not isinstance(message, Phrase):
            option, _, reason = message.removeprefix("argument ").partition(": ")
            message = Joined(": ", filter(None, [Phrase(option), Phrase(reason)]))
        raise InvalidRequestError(Phrase("{message} (--help shows the options)", message=message))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Return the value of an argument; a reason of ours is not made a plain text."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            reason = getattr(error.__context__, "args", ("",))[0]
            if not isinstance(reason, Phrase):
                raise
            self.error(Joined(": ", ["/".join(action.option_strings), reason]))

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        """Return how many values follow; a missing choice is answered with all of them."""
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError:
            known: Iterable[str] = getattr(action.type, "known", ())
            if not known:
                raise
            reason = Phrase("a value is missing. {hint}", hint=did_you_mean("", known))
            self.error(Joined(": ", ["/".join(action.option_strings), reason]))

    def refuse(self, argument: str) -> NoReturn:
        """Raise the error of an argument that no parameter takes."""
        if not argument.startswith("-"):
            self.error(Phrase("unexpected argument: {argument}", argument=argument))
        known = [flag for action in self._actions for flag in action.option_strings]
        flag = argument.partition("=")[0]
        hint = did_you_mean(flag, known, max_shown=0)  # --help shows all
        unknown = Phrase("no such option: {flag}", flag=flag)
        self.error(Joined(". ", filter(None, [unknown, hint])))

    def format_help(self) -> str:
        from shutil import get_terminal_size  # only help needs it

        fewest, most = HELP_COLUMNS
        width = min(max(fewest, get_terminal_size().columns), most)
        self.formatter_class = lambda prog: _SortedHelp(prog, width)
        text, colon = super().format_help(), spoken(Phrase(": ")).rstrip()
        for group in self._action_groups:
            text = text.replace(f"\n{group.title}:\n", f"\n{group.title}{colon}\n")
        return text


class _SortedHelp(argparse.HelpFormatter):
    """Help that lists options by name, and breaks no line inside a name with hyphens."""

    def __init__(self, prog: str, width: int = HELP_COLUMNS[1]) -> None:
        flags = min(FLAG_COLUMNS, width * FLAG_COLUMNS // 80)
        super().__init__(prog, max_help_position=flags, width=width)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, prefix or spoken(Phrase("usage: ")))

    def add_arguments(self, actions: Any) -> None:
        super().add_arguments(sorted(actions, key=_name))

    def _split_lines(self, text: str, width: int) -> list[str]:
        from planner.base.console import lines  # only help needs it

        return list(lines(text, width))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else "\n".join(self._split_lines(text, width))


class _Version(argparse.Action):
    """Print the versions and end the program."""

    def __call__(self, parser: Any, *_: Any) -> None:
        from planner.base.versions import version_text  # reading metadata takes longer than to plan

        print_text(version_text())
        parser.exit()


class _Spoken(argparse.Action):
    """Store nothing: the language is set before the arguments are read."""

    def __call__(self, *_: Any) -> None:
        pass


class _Several(argparse.Action):
    """Store several values as a tuple."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, tuple(values))


def _parser(command: Callable[..., Any]) -> _Parser:
    description, _, epilog = inspect.cleandoc(command.__doc__ or "").partition("\n\n")
    parser = _Parser(
        prog=command.__name__,
        description=spoken(Phrase(description)),
        epilog="\n".join(spoken(Phrase(line)) for line in epilog.splitlines()),
        allow_abbrev=False,
        add_help=False,
        formatter_class=cache(_SortedHelp),
    )
    for group in parser._action_groups:
        group.title = spoken(Phrase(group.title or ""))
    for flags, text in ALWAYS.items():
        settings = {"action": "help"} if "--help" in flags else {"action": _Version, "nargs": 0}
        parser.add_argument(*flags, dest=argparse.SUPPRESS, help=spoken(text), **settings)
    parser.add_argument(
        *LANGUAGE.flags,
        action=_Spoken,
        dest=argparse.SUPPRESS,
        help=_help(LANGUAGE, None),
        **_value(Language, LANGUAGE),
    )
    groups: dict[str | None, Any] = {None: parser}
    usage = ["%(prog)s", "[OPTIONS]"]
    for parameter in inspect.signature(command).parameters.values():
        kind, declared = get_args(parameter.annotation)
        if isinstance(declared, Option):
            group = groups.get(declared.group) or parser.add_argument_group(
                spoken(Phrase(declared.group or ""))
            )
            groups[declared.group] = group
            _add_option(group, parameter, kind, declared)
        else:
            usage.append(_add_argument(parser, parameter, kind, declared))
    parser.usage = " ".join(usage)
    return parser


def _add_argument(
    parser: _Parser, parameter: inspect.Parameter, kind: Any, argument: Argument
) -> str:
    """Add a positional argument and return its place in the usage line."""
    metavar = argument.metavar or parameter.name.upper()
    settings = {"metavar": metavar, "help": _help(argument, None), "type": single_type(kind)}
    if parameter.default is inspect.Parameter.empty:
        parser.add_argument(parameter.name, **settings)
        return metavar
    parser.add_argument(parameter.name, nargs="?", default=parameter.default, **settings)
    return f"[{metavar}]"


def _add_option(group: Any, parameter: inspect.Parameter, kind: Any, option: Option) -> None:
    default = parameter.default
    settings = _settings(single_type(kind), option, default)
    if option.metavar is not None:
        several = isinstance(settings.get("nargs"), int)
        settings["metavar"] = tuple(option.metavar.split()) if several else option.metavar
    flags = [flag for flag in option_flags(parameter) if not flag.startswith("--no-")]
    group.add_argument(
        *flags, dest=parameter.name, default=default, help=_help(option, default), **settings
    )


def option_flags(parameter: inspect.Parameter) -> tuple[str, ...]:
    """Return the flags of a command's parameter that is an option, short ones first."""
    kind, option = get_args(parameter.annotation)
    long = [flag for flag in option.flags if flag.startswith("--")]
    short = [flag for flag in option.flags if not flag.startswith("--")]
    long = long or [f"--{parameter.name.replace('_', '-')}"]
    if single_type(kind) is bool and parameter.default is not False:
        long += [f"--no-{flag.removeprefix('--')}" for flag in long]
    return (*short, *long)


def accepted_values(kind: Any, option: Option) -> tuple[str, ...]:
    """Return the values of an option that are known by name."""
    known = tuple(option.known()) if option.known is not None else ()
    single = single_type(kind)
    return (*map(str, get_args(single) if get_origin(single) is Literal else ()), *known)


def _settings(kind: Any, option: Option, default: Any) -> dict[str, Any]:
    """Return how argparse reads the values of an option of this type."""
    if kind is bool:
        return {"action": "store_true" if default is False else argparse.BooleanOptionalAction}
    values = get_args(kind)
    if get_origin(kind) is list:
        return {"action": "append", **_value(values[0], option)}
    if get_origin(kind) is tuple:
        many: Any = "+" if Ellipsis in values else len(values)
        return {"action": _Several, "nargs": many, **_value(values[0], option)}
    return _value(kind, option)


def _value(kind: Any, option: Option) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return {"type": _choice(choices), "metavar": "|".join(map(str, choices))}
    if kind in (int, float):
        return {"type": _number(kind, option), "metavar": "N" if kind is int else "X"}
    return {"type": kind, "metavar": "FILE" if kind is Path else "TEXT"}


def _choice(choices: tuple[Any, ...]) -> Callable[[str], Any]:
    by_name = {str(choice): choice for choice in choices}

    def read(text: str) -> Any:
        if text not in by_name:
            hint = did_you_mean(text, by_name)
            raise argparse.ArgumentTypeError(
                Phrase("unknown value {text!r}. {hint}", text=text, hint=hint)
            )
        return by_name[text]

    read.known = [*by_name]  # type: ignore[attr-defined]
    return read


def _number(kind: type[int] | type[float], option: Option) -> Callable[[str], float]:
    noun = Phrase("a whole number") if kind is int else Phrase("a number")
    minimum, maximum = option.minimum, option.maximum
    if maximum is None:
        maximum = MOST if kind is int else LARGEST

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not -math.inf < number < math.inf:
            raise argparse.ArgumentTypeError(Phrase("{text!r} is not {noun}", text=text, noun=noun))
        if minimum is not None and number < minimum:
            raise argparse.ArgumentTypeError(
                Phrase("{text} is less than {minimum}", text=text, minimum=minimum)
            )
        if number > maximum:
            raise argparse.ArgumentTypeError(
                Phrase("{text} is more than {maximum}", text=text, maximum=maximum)
            )
        return number

    return read


def _help(option: Argument, default: Any) -> str:
    """Return the help text, with a default that is not a flag's or a long path."""
    text = Phrase(option.help)
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        text = Joined("", [text, Phrase(" Default: {default}.", default=default)])
    return spoken(text).replace("%", "%%")


def _name(action: argparse.Action) -> str:
    return next((flag for flag in action.option_strings if flag.startswith("--")), "")


def single_type(kind: Any) -> Any:
    """Return T for the type ``T | None``."""
    members = get_args(kind)
    if NoneType not in members:
        return kind
    return next(member for member in members if member is not NoneType)


def _is_read(stream: TextIO) -> bool:
    """Return whether the pipe that ``stream`` may be still has a reader."""
    from select import POLLERR, poll  # only a broken pipe needs it

    events = poll()
    events.register(stream, 0)
    return not any(event & POLLERR for _, event in events.poll(0))
