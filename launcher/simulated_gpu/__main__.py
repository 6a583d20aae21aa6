"""``python -m launcher.simulated_gpu CARD[:N] COMMAND...``: run a command on simulated cards."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from launcher.simulated_gpu.environment import simulated_environment
from launcher.simulated_gpu.machine_file import GRAMMAR, parse_cards
from planner.base.errors import InvalidRequestError, UserError
from planner.base.printable import print_text


def main(arguments: list[str]) -> int:
    """Return the command's exit code."""
    try:
        if len(arguments) < 2:
            raise InvalidRequestError(f"name cards and a command: {GRAMMAR}")
        cards = parse_cards(arguments[0])
        with TemporaryDirectory(prefix="simulated-gpu-") as scratch:
            environment = simulated_environment(cards, os.environ, Path(scratch))
            return subprocess.run(arguments[1:], env=environment, check=False).returncode
    except UserError as error:
        print_text(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
