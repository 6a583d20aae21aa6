"""``launch --merge RUN_DIR``: a run's adapter worked into 16-bit weights, as a model of its own."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.data.inputs import read_inputs
from launcher.run.output import libraries_quiet
from launcher.run.rank_commands import planned_environment
from launcher.run.run_directory import RunDirectory
from launcher.run.sigterm import unwound_by_sigterm
from launcher.storage import adapter_files
from launcher.storage.json_files import write_json
from launcher.storage.weight_files import is_complete
from planner.base.errors import InvalidRequestError
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


def merge_run(directory: Path, output: Path | None) -> None:
    """Merges, compares, and says what came of it."""
    run = RunDirectory(directory)
    plan = mergeable_plan(run)
    target = output or directory / "merged"
    if target.exists():
        raise InvalidRequestError(f"{target} is there already. Choose another with --output DIR.")
    base = Path(read_inputs(run).checkpoint)
    if not is_complete(base):
        raise InvalidRequestError(
            f"the base model is not at {base} any more. Put it back, and merge again."
        )
    # Before PyTorch is imported, which reads it then.
    os.environ.update(planned_environment(plan, os.environ))
    with unwound_by_sigterm(), libraries_quiet(run.logs / "merge.log") as screen:
        from launcher.merging.merge_check import compare
        from launcher.merging.merger import merge

        merge(plan, base=base, adapter=run.result(plan), target=target, screen=screen)
        print("comparing logits", file=screen)
        found = compare(plan, base=base, adapter=run.result(plan), merged=target)
        agreement = asdict(found)
        write_json(run.path / "merge.json", {"merged": str(target), **agreement})
        for line in closing_lines(agreement, target):
            print(line, file=screen)


def mergeable_plan(run: RunDirectory) -> Plan:
    if not run.plan.is_file():
        raise InvalidRequestError(f"{run.path} holds no plan.yaml, so it is no run directory.")
    plan = read_spec(Plan, run.plan)
    if plan.adapter is None:
        raise InvalidRequestError(
            f"{run.path} trained all weights: {run.result(plan)} is a whole model already."
        )
    if not (run.result(plan) / adapter_files.WEIGHTS).is_file():
        raise InvalidRequestError(f"{run.path} has no adapter: its training has not finished.")
    return plan


def closing_lines(found: dict[str, Any], target: Path) -> list[str]:
    return [
        f"logits of {found['num_prompts']} prompts: {found['relative_difference']:.2%} apart (root "
        f"mean square), {found['max_difference']:.3g} at most, of {found['largest_logit']:.3g}",
        f"same first choice at {found['same_first_choice']} of {found['num_tokens']} tokens",
        f"merged model: {target}",
        f"use it: transformers.AutoModelForCausalLM.from_pretrained({str(target)!r})",
    ]
