"""The grammar of the commands: what a signature accepts, what is refused, and the help."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from planner.base.command_line import (
    INTERRUPTED,
    Argument,
    Option,
    parse_arguments,
    run_command,
    written_options,
)
from planner.base.errors import InvalidRequestError


def bake(
    oven: Annotated[Path | None, Argument("Oven to use.", metavar="OVEN")] = None,
    *,
    flour: Annotated[str | None, Option("Kind of flour.")] = None,
    batch_size: Annotated[int | None, Option("Loaves per batch.", minimum=1, maximum=400)] = None,
    degrees: Annotated[float, Option("Heat of 62 % humidity.", minimum=0)] = 220.5,
    crust: Annotated[Literal["soft", "hard"], Option("What the crust is like.")] = "hard",
    stage: Annotated[Literal[0, 1] | None, Option("Stage to begin with.")] = None,
    salted: Annotated[bool | None, Option("Salt the dough.")] = None,
    as_rolls: Annotated[bool, Option("Bake rolls.", flags=("--rolls",))] = False,
    output: Annotated[
        Path | None, Option("Where the bread goes.", flags=("--output", "-o"))
    ] = None,
    additions: Annotated[
        list[str] | None, Option("Add a thing.", metavar="KEY=VALUE", flags=("--with",))
    ] = None,
    move: Annotated[
        tuple[Path, Path] | None, Option("Move a loaf to twenty-first place.", metavar="SRC DST")
    ] = None,
    weighed: Annotated[
        tuple[Path, ...] | None, Option("Weigh loaves.", metavar="LOAF", flags=("--weigh",))
    ] = None,
) -> None:
    """Bake bread."""


def weigh(loaf: Annotated[Path, Argument("Loaf to weigh.")]) -> int:
    """Weigh a loaf."""
    return len(loaf.name)


def parsed(*arguments: str) -> dict[str, Any]:
    """What differs from the defaults."""
    defaults = parse_arguments(bake, [])
    values = parse_arguments(bake, arguments)
    assert values.keys() == defaults.keys()
    return {name: value for name, value in values.items() if value != defaults[name]}


def test_defaults_are_the_signatures() -> None:
    values = parse_arguments(bake, [])
    assert values == {"oven": None, **(bake.__kwdefaults__ or {})}


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--flour", "rye"], {"flour": "rye"}),
        (["--flour=rye=dark"], {"flour": "rye=dark"}),
        (["--flour", ""], {"flour": ""}),
        (["--flour", "rye", "--flour", "oat"], {"flour": "oat"}),
        (["--batch-size", "12"], {"batch_size": 12}),
        (["--degrees", "0"], {"degrees": 0.0}),
        (["--crust", "soft"], {"crust": "soft"}),
        (["--stage", "0"], {"stage": 0}),
        (["--salted"], {"salted": True}),
        (["--no-salted"], {"salted": False}),
        (["--rolls"], {"as_rolls": True}),
        (["--rolls", "--"], {"as_rolls": True}),
        (["-o", "-"], {"output": Path("-")}),
        (["-oout"], {"output": Path("out")}),
        (["--output", "out"], {"output": Path("out")}),
        (["--with", "a=-1", "--with=b=2"], {"additions": ["a=-1", "b=2"]}),
        (["--move", "a", "b"], {"move": (Path("a"), Path("b"))}),
        (["--weigh", "a", "--rolls"], {"weighed": (Path("a"),), "as_rolls": True}),
        (["--weigh", "a", "b", "c"], {"weighed": (Path("a"), Path("b"), Path("c"))}),
    ],
)
def test_options(arguments: list[str], values: dict[str, Any]) -> None:
    assert parsed(*arguments) == values


@pytest.mark.parametrize(
    "arguments",
    [
        ["stone", "--rolls", "--move", "a", "b", "--with", "c=d"],
        ["--rolls", "stone", "--move", "a", "b", "--with", "c=d"],
        ["--rolls", "--move", "a", "b", "stone", "--with", "c=d"],
        ["--with", "c=d", "--move", "a", "b", "--rolls", "--", "stone"],
    ],
)
def test_a_positional_argument_may_stand_anywhere(arguments: list[str]) -> None:
    assert parsed(*arguments) == {
        "oven": Path("stone"),
        "as_rolls": True,
        "move": (Path("a"), Path("b")),
        "additions": ["c=d"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flou", "rye"], "no such option: --flou. Did you mean '--flour'?"),
        (["--rol"], "no such option: --rol. Did you mean '--rolls'?"),
        (["--no-rolls"], "no such option: --no-rolls. Did you mean '--rolls'?"),
        (["stone", "--flavour=rye", "x"], "no such option: --flavour. Did you mean '--flour'?"),
        (["--xyzzy"], "no such option: --xyzzy"),
        (["-x"], "no such option: -x"),
        (["stone", "brick"], "unexpected argument: brick"),
        (["--", "stone", "brick"], "unexpected argument: brick"),
        (["--flour"], "--flour: expected one argument"),
        (["--flour", "--rolls"], "--flour: expected one argument"),
        (["--move", "a"], "--move: expected 2 arguments"),
        (["--weigh"], "--weigh: expected at least one argument"),
        (["--batch-size", "many"], "--batch-size: 'many' is not a whole number"),
        (["--batch-size", "1.5"], "--batch-size: '1.5' is not a whole number"),
        (["--batch-size", "0"], "--batch-size: 0 is less than 1"),
        (["--degrees", "hot"], "--degrees: 'hot' is not a number"),
        (["--degrees", "nan"], "--degrees: 'nan' is not a number"),
        (["--degrees", "inf"], "--degrees: 'inf' is not a number"),
        (["--degrees", "-1"], "--degrees: -1 is less than 0"),
        (["--batch-size", "401"], "--batch-size: 401 is more than 400"),
        (["--degrees", "1e31"], "--degrees: 1e31 is more than 1e+30"),
        (["--crust", "softt"], "--crust: unknown value 'softt'. Did you mean 'soft'?"),
        (["--crust", "none"], "--crust: unknown value 'none'. Known: hard, soft."),
        (["--crust"], "--crust: a value is missing. Known: hard, soft."),
        (["--stage", "2"], "--stage: unknown value '2'. Known: 0, 1."),
        (["--output", "a", "-o"], "-o/--output: expected one argument"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_arguments(bake, arguments)
    assert str(refused.value) == f"{message} (--help shows the options)"


def test_a_required_argument_is_asked_for() -> None:
    with pytest.raises(InvalidRequestError, match="required: LOAF"):
        parse_arguments(weigh, [])
    assert parse_arguments(weigh, ["rye"]) == {"loaf": Path("rye")}


def help_of(
    command: Callable[..., Any],
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        parse_arguments(command, ["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_help_lists_arguments_and_then_options_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(bake, 100, capsys, monkeypatch)
    assert lines[:3] == ["usage: bake [OPTIONS] [OVEN]", "", "Bake bread."]
    described = [line[2:].split("  ")[0] for line in lines[3:] if line[:2] == "  "]
    # From Python 3.13 on the value is shown once.
    assert [name.replace("-o FILE, ", "-o, ") for name in described if name] == [
        "OVEN",
        "--batch-size N",
        "--crust soft|hard",
        "--degrees X",
        "--flour TEXT",
        "-h, --help",
        "--language en|zh",
        "--move SRC DST",
        "-o, --output FILE",
        "--rolls",
        "--salted, --no-salted",
        "--stage 0|1",
        "--version",
        "--weigh LOAF [LOAF ...]",
        "--with KEY=VALUE",
    ]
    text = "\n".join(lines)
    assert "Heat of 62 % humidity. Default: 220.5." in text
    assert "What the crust is like. Default: hard." in text


def braid(
    *,
    strands: Annotated[int, Option("Number of strands.", group="dough")] = 3,
    glaze: Annotated[bool, Option("Glaze the loaf.", group="finish")] = False,
    proof: Annotated[float | None, Option("Hours to proof.", group="dough")] = None,
) -> None:
    """Braid a loaf of any number of strands, which is baked afterwards.

    Examples:
      braid --strands 4
      braid --glaze
    """


def test_options_stand_in_their_groups_and_examples_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(braid, 100, capsys, monkeypatch)
    kept = [line.split("  ")[0] or line[2:].split("  ")[0] for line in lines if line]
    assert kept == [
        "usage: braid [OPTIONS]",
        "Braid a loaf of any number of strands, which is baked afterwards.",
        "options:",
        "-h, --help",
        "--language en|zh",
        "--version",
        "dough:",
        "--proof X",
        "--strands N",
        "finish:",
        "--glaze",
        "Examples:",
        "braid --strands 4",
        "braid --glaze",
    ]


@pytest.mark.parametrize("columns", [20, 60, 61, 62, 63, 64, 80, 140, 200])
def test_help_is_as_wide_as_the_terminal_between_bounds(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(bake, columns, capsys, monkeypatch)
    assert max(map(len, lines)) <= min(max(columns, 60), 140)
    assert any("twenty-first" in line for line in lines), "no name is broken at a hyphen"


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("module", ["planner", "launcher"])
def test_help_of_the_commands(module: str, columns: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env={**os.environ, "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert columns - 12 < max(map(len, lines)) <= columns
    assert "Examples:" in lines
    assert {"data:", "options:"} <= set(lines)


def test_help_in_a_pipe_has_80_columns() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "planner", "--help"], env=bare, capture_output=True, check=True
    )
    assert 68 < max(map(len, done.stdout.decode().splitlines())) <= 80


def test_versions_are_told_without_an_import(
    capsys: pytest.CaptureFixture[str],
) -> None:
    imported = set(sys.modules)
    with pytest.raises(SystemExit) as ended:
        parse_arguments(bake, ["--version"])
    assert ended.value.code == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"tuneplan {version('tuneplan')}, Python 3.")
    told = dict(line.split() for line in others)
    assert told == {name: version(name) for name in told}
    assert {"torch", "transformers", "trl", "peft"} <= set(told)
    assert not {"torch", "transformers"} & (set(sys.modules) - imported)


def run(
    command: Callable[..., int | None], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> int:
    monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
    return run_command(command)


def test_the_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(bake, monkeypatch) == 0
    assert run(weigh, monkeypatch, "rye") == 3


def test_a_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise InvalidRequestError("no oven: build one")

    assert run(refuse, monkeypatch) == 2
    assert capsys.readouterr() == ("", "error: no oven: build one\n")
    assert run(refuse, monkeypatch, "--now") == 2
    assert capsys.readouterr() == ("", "error: no such option: --now (--help shows the options)\n")


@pytest.mark.parametrize("bug", [ValueError, BrokenPipeError, OSError])
def test_a_bug_keeps_its_traceback(bug: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble() -> None:
        raise bug

    with pytest.raises(bug):
        run(stumble, monkeypatch)


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    assert run(wait, monkeypatch) == INTERRUPTED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(lines: int) -> None:
    script = (
        "import sys; from planner.base.command_line import run_command\n"
        "sys.stdin.read()\n"
        f"def talk() -> None:\n    for _ in range({lines}):\n        print('word')\n"
        "sys.exit(run_command(talk))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        assert talking.stderr is not None
        talking.stdout.close()
        talking.stdin.close()
        assert talking.stderr.read() == b""
    assert talking.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("option", ["--model", "--recipe", "--data"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"a" * 5_000, "is too long for a file"), (b"\xff", "is not UTF-8 text")],
)
def test_names_that_no_file_can_have(option: str, value: bytes, reason: str) -> None:
    plan = (sys.executable, "-m", "planner", "--gpus", "24G", "-o", "-", "--model", "gpt2")
    done = subprocess.run([*plan, option, value], capture_output=True, check=False)
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert reason in line


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_number(
    closed: str, tmp_path: Path
) -> None:
    script = tmp_path / "talk.py"
    script.write_text(
        "import os, sys\n"
        "from planner.base.command_line import run_command\n"
        "from planner.base.errors import InvalidRequestError\n"
        "def talk() -> int:\n"
        "    print('out'); print('err', file=sys.stderr)\n"
        "    with open(sys.argv[0]) as file: number = file.fileno()\n"
        "    if sys.stdin is None: os.fstat(0)\n"
        "    if number < 3: raise RuntimeError(number)\n"
        "    return 7\n"
        "sys.exit(run_command(talk))\n"
    )
    command = f"exec {sys.executable} {script} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert (done.stdout, done.stderr) == (
        "" if ">&-" in closed.replace("2>&-", "") else "out\n",
        "" if "2>&-" in closed else "err\n",
    )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"flour": "-rye", "batch_size": 3},
        {"degrees": 0.0, "crust": "soft", "stage": 0},
        {"salted": True, "as_rolls": True, "output": Path("-")},
        {"salted": False, "additions": ["a=1", "-b=2"], "move": (Path("a"), Path("b"))},
        {"flour": "", "degrees": 1e-7},
    ],
)
def test_written_options_are_read_as_the_values(values: dict[str, Any]) -> None:
    assert parsed(*written_options(bake, values)) == values


def feed(
    who: Annotated[Path | None, Argument("Who is fed first.")] = None,
    *,
    loaves: Annotated[tuple[Path, ...] | None, Option("Loaves to give.", metavar="LOAF")] = None,
    quietly: Annotated[bool, Option("Say nothing.")] = False,
) -> None:
    """Feed the guests."""


def test_an_option_of_one_value_or_more(capsys: pytest.CaptureFixture[str]) -> None:
    one = parse_arguments(feed, ["--loaves", "a", "--quietly"])
    assert one == {"who": None, "loaves": (Path("a"),), "quietly": True}
    several = {"loaves": (Path("a"), Path("b"))}
    arguments = written_options(feed, several)
    assert arguments == ["--loaves", "a", "b"]
    assert parse_arguments(feed, arguments)["loaves"] == several["loaves"]
    with pytest.raises(InvalidRequestError, match="--loaves: expected at least one argument"):
        parse_arguments(feed, ["--loaves"])
    with pytest.raises(SystemExit):
        parse_arguments(feed, ["--help"])
    assert "--loaves LOAF [LOAF ...]" in capsys.readouterr().out
