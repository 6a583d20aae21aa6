"""The console script ``tuneplan``, and ``python -m tuneplan``.

A command's modules are imported when it is chosen: ``tuneplan plan`` starts as fast as ``plan``.
"""

import sys
from typing import Annotated

from planner.base.command_line import Argument, Option, run_command
from planner.base.errors import InvalidRequestError, did_you_mean
from planner.base.phrases import Phrase
from tuneplan.completion import Shell, completion_script

COMMANDS = ("plan", "launch")


def tuneplan(
    command: Annotated[
        str | None, Argument("plan or launch; --help after it shows its options.", "COMMAND")
    ] = None,
    *,
    completion: Annotated[
        Shell | None,
        Option("Print the completion of tuneplan, plan and launch for a shell."),
    ] = None,
) -> None:
    """Plan a fine-tune for the GPUs at hand, then launch exactly that plan.

    Commands, which are installed under their short names too:
      plan      choose how to fine-tune, and write plan.yaml
      launch    run the training that plan.yaml describes

    Examples:
      tuneplan plan --model qwen2.5-7b --gpus 24G
      tuneplan launch plan.yaml --data my.jsonl
      eval "$(tuneplan --completion bash)"
      tuneplan --completion fish | source
    """
    if command is not None:
        hint = did_you_mean(command, COMMANDS)
        raise InvalidRequestError(
            Phrase("no such command: {command}. {hint}", command=command, hint=hint)
        )
    if completion is None:
        raise InvalidRequestError(Phrase("no command is named: tuneplan plan or tuneplan launch"))
    from launcher.cli.launch_command import launch
    from planner.cli.plan_command import plan

    print(completion_script(completion, tuneplan, (plan, launch)), end="")


def main() -> int:
    """Run the command that is named first, or ``tuneplan`` itself; return the exit code."""
    named = next(iter(sys.argv[1:]), "--help")
    if named == "plan":
        from planner.__main__ import main as plan

        del sys.argv[1]
        plan()
    if named == "launch":
        from launcher.__main__ import main as launch

        del sys.argv[1]
        return launch()
    alone = not named.startswith("-")  # the options after it are those of no command
    sys.argv = [sys.argv[0], named] if alone else [sys.argv[0], named, *sys.argv[2:]]
    return run_command(tuneplan)


if __name__ == "__main__":
    sys.exit(main())
