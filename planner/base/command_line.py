"""A user's mistake is one line, a bug keeps its traceback."""

import sys
from collections.abc import Callable
from typing import NoReturn

from planner.base.errors import UserError


def run(command: Callable[..., None]) -> None:
    """Run one command of typer's as the whole program."""
    import typer
    from typer.exceptions import TyperException

    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.command()(command)
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        fail(str(error), error.exit_code)
    except TyperException as error:
        fail(f"{error.format_message()} (--help shows the options)", UserError.exit_code)
    except typer.Abort:
        sys.exit(130)


def fail(message: str, exit_code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(exit_code)
