"""Completion scripts for shells, made from the signatures that are the commands' grammar.

The names of presets are written into the script: a shell completes them without starting Python,
and a new version of tuneplan needs the script anew.
"""

import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from planner.base.command_line import (
    ALWAYS,
    LANGUAGE,
    Option,
    accepted_values,
    option_flags,
    single_type,
)
from planner.base.phrases import Language

Shell = Literal["bash", "zsh", "fish"]
Command = Callable[..., Any]
_FILES = {"FILE", "DIR"}
"""Parts of a metavar that say that an option takes a path."""


class _Choice(Struct, frozen=True):
    """An option as a shell sees it."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    """Known values; empty where there are none, or where it names a file."""
    takes_file: bool


def completion_script(shell: Shell, whole: Command, commands: Sequence[Command]) -> str:
    """Return a script that completes ``commands``, and ``whole`` with one of them as its first
    word, in a shell."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return scripts[shell](whole, commands)


def _choices(command: Command) -> Iterator[_Choice]:
    for flags, help_text in ALWAYS.items():
        yield _Choice(flags, help_text, takes_value=False, values=(), takes_file=False)
    languages = get_args(Language)
    yield _Choice(LANGUAGE.flags, LANGUAGE.help, True, values=languages, takes_file=False)
    for parameter in inspect.signature(command).parameters.values():
        kind, declared = get_args(parameter.annotation)
        if isinstance(declared, Option):
            single = single_type(kind)
            yield _Choice(
                flags=option_flags(parameter),
                help=declared.help,
                takes_value=single is not bool,
                values=accepted_values(kind, declared),
                takes_file=single is Path or bool(_FILES & {*(declared.metavar or "").split("|")}),
            )


def _flags(command: Command) -> list[str]:
    return [flag for choice in _choices(command) for flag in choice.flags]


def _bash(whole: Command, commands: Sequence[Command]) -> str:
    name = whole.__name__
    first = shlex.quote(" ".join([*(each.__name__ for each in commands), *_flags(whole)]))
    cases = [
        f"    {pattern}) words={shlex.quote(' '.join(choice.values))} ;;"
        for command in (whole, *commands)
        for choice in _choices(command)
        if choice.values
        for pattern in ["|".join(f"'{command.__name__} {flag}'" for flag in choice.flags)]
    ]
    options = [
        f"        {command.__name__}) words={shlex.quote(' '.join(_flags(command)))} ;;"
        for command in commands
    ]
    lines = [
        f"# Completion of {name} for bash, made by {name} --completion bash.",
        f"_{name}() {{",
        '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD - 1]}"',
        '  local command="${COMP_WORDS[0]##*/}" words=""',
        "  COMPREPLY=()",
        f"  if [[ $command == {name} && COMP_CWORD -gt 1 && ${{COMP_WORDS[1]}} != -* ]]; then",
        '    command="${COMP_WORDS[1]}"',
        "  fi",
        "  # bash makes a word of the sign in --option=value.",
        '  [[ $current == "=" ]] && current="" && previous="${COMP_WORDS[COMP_CWORD - 1]}"',
        '  [[ $previous == "=" ]] && previous="${COMP_WORDS[COMP_CWORD - 2]}"',
        '  case "$command $previous" in',
        *cases,
        "    *)",
        "      case $command in",
        f"        {name}) words={first} ;;",
        *options,
        "      esac",
        f"      [[ $current != -* && $command != {name} ]] && words=''",
        "      ;;",
        "  esac",
        '  [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        "# Without a word of ours bash completes files.",
        f"complete -o default -F _{name} {' '.join([name, *(c.__name__ for c in commands)])}",
    ]
    return "\n".join(lines) + "\n"


def _zsh(whole: Command, commands: Sequence[Command]) -> str:
    name = whole.__name__
    names = " ".join(command.__name__ for command in commands)
    lines = [
        f"#compdef {name} {names}",
        f"# Completion of {name} for zsh, made by {name} --completion zsh.",
    ]
    for command in commands:
        rest = "'*:file:_files'"
        lines += _zsh_function(command, rest)
    lines += _zsh_function(whole, f"'1:command:({names})'", "'*::arguments:->command'")
    lines[-1:] = [
        "  if [[ $state == command ]]; then",
        "    case $words[1] in",
        *(f"      {c.__name__}) _{name}_{c.__name__} ;;" for c in commands),
        "    esac",
        "  fi",
        "}",
    ]
    lines += [f"compdef _{name}_{name} {name}"]
    lines += [f"compdef _{name}_{command.__name__} {command.__name__}" for command in commands]
    return "\n".join(lines).replace("_COMMAND_", f"_{name}_") + "\n"


def _zsh_function(command: Command, *rest: str) -> list[str]:
    specs = [_zsh_spec(flag, choice) for choice in _choices(command) for flag in choice.flags]
    return [
        f"_COMMAND_{command.__name__}() {{",
        "  local curcontext=$curcontext state line",
        "  _arguments -C \\",
        *(f"    {spec} \\" for spec in specs),
        f"    {' '.join(rest)}",
        "}",
    ]


def _zsh_spec(flag: str, choice: _Choice) -> str:
    text = choice.help
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, f"\\{special}")
    spec = f"{flag}[{text}]"
    if choice.takes_value:
        values = f"({' '.join(choice.values)})"
        both = f'{{_alternative "names:name:{values}" "files:file:_files"}}'
        action = both if choice.values and choice.takes_file else values
        spec += f":value:{action if choice.values else '_files'}"
    return shlex.quote(spec)


def _fish(whole: Command, commands: Sequence[Command]) -> str:
    name = whole.__name__
    lines = [
        f"# Completion of {name} for fish, made by {name} --completion fish.",
        f"complete -c {name} -f",
    ]
    for command in commands:
        summary = _fish_quoted((command.__doc__ or "").partition("\n")[0])
        lines.append(
            f"complete -c {name} -n __fish_use_subcommand -a {command.__name__} -d {summary}"
        )
    lines += [f"complete -c {name} -n __fish_use_subcommand {o}" for o in _fish_options(whole)]
    for command in commands:
        seen = f"-n '__fish_seen_subcommand_from {command.__name__}'"
        lines.append(f"complete -c {name} {seen} -F")
        for option in _fish_options(command):
            lines.append(f"complete -c {command.__name__} {option}")
            lines.append(f"complete -c {name} {seen} {option}")
    return "\n".join(lines) + "\n"


def _fish_options(command: Command) -> Iterator[str]:
    for choice in _choices(command):
        flags = " ".join(
            f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in choice.flags
        )
        value = ""
        if choice.takes_value:
            value = " -r" if choice.takes_file or not choice.values else " -x"
        if choice.values:
            value += f" -a {_fish_quoted(' '.join(choice.values))}"
        yield f"{flags}{value} -d {_fish_quoted(choice.help)}"


def _fish_quoted(text: str) -> str:
    """Return a text in single quotes, in which fish knows two escapes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
