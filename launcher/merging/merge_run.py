"""``launch --merge RUN_DIR``: a run's adapter merged into 16-bit weights, as a model of its own."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launcher.data.inputs import read_inputs
from launcher.merging.serving import serving_lines
from launcher.run.output import libraries_quiet
from launcher.run.rank_commands import planned_environment
from launcher.run.run_directory import RunDirectory
from launcher.run.unwinding import unwound_by_sigterm
from launcher.run.versions import package_versions
from launcher.storage import adapter_files
from launcher.storage.json_files import read_json, write_json
from launcher.storage.weight_files import is_complete, require_readable, safetensors_files
from planner.base.errors import InvalidRequestError
from planner.base.output_file import write_whole
from planner.base.phrases import Phrase
from planner.base.printable import print_text
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan

ROUNDING = 0.05
"""Share by which logits move with the rounding of 16-bit arithmetic alone: those of SmolLM2-135M
are 4 to 5 % apart between bf16 and fp32 (docs/how-to/merge-and-serve.md)."""


def merge_run(directory: Path, output: Path | None) -> None:
    """Merge a run's adapter into a new folder, compare the logits, and print both.

    ``output`` is ``merged`` in the run directory if it is None. Raises ``InvalidRequestError`` if
    there is nothing to merge, or the folder exists.
    """
    run = RunDirectory(directory)
    plan = mergeable_plan(run)
    target = output or directory / "merged"
    if target.exists():
        raise InvalidRequestError(
            Phrase(
                "{target} exists already. Choose another folder with --output DIR.", target=target
            )
        )
    base = Path(read_inputs(run).checkpoint)
    if not is_complete(base):
        raise InvalidRequestError(
            Phrase(
                "the base model is no longer at {base}. Put it back, and merge again.", base=base
            )
        )
    require_readable(safetensors_files(base))
    # PyTorch reads it when it is imported.
    os.environ.update(planned_environment(plan, os.environ))
    with unwound_by_sigterm(), libraries_quiet(run.logs / "merge.log") as screen:
        from launcher.display.model_card import CARD, model_card
        from launcher.merging.merge_check import compare
        from launcher.merging.merger import merge

        merge(plan, base=base, adapter=run.result(plan), target=target, screen=screen)
        print_text(Phrase("comparing logits"), file=screen)
        agreement = asdict(compare(plan, base=base, adapter=run.result(plan), merged=target))
        write_json(run.path / "merge.json", {"merged": str(target), **agreement})
        if run.report.is_file():
            card = model_card(plan, read_json(run.report), package_versions(), merged=True)
            write_whole(target / CARD, str(card))
        for line in closing_lines(agreement, target, plan.model.name):
            print_text(line, file=screen)


def mergeable_plan(run: RunDirectory) -> Plan:
    """Return the run's plan; raise ``InvalidRequestError`` if the run has no finished adapter."""
    if not run.plan.is_file():
        raise InvalidRequestError(
            Phrase("{path} is not a run directory: it holds no plan.yaml.", path=run.path)
        )
    plan = read_spec(Plan, run.plan)
    if plan.adapter is None:
        raise InvalidRequestError(
            Phrase(
                "{path} trained all weights: {result} is a whole model already.",
                path=run.path,
                result=run.result(plan),
            )
        )
    if not (run.result(plan) / adapter_files.WEIGHTS).is_file():
        raise InvalidRequestError(
            Phrase(
                "{path} has no adapter: its training is not finished. Resume it, and merge then.",
                path=run.path,
            )
        )
    return plan


def closing_lines(agreement: Mapping[str, Any], target: Path, name: str) -> list[str]:
    """Return what is printed of a merge: whether the model is the same, and how to run it.

    ``name`` is the base model's.
    """
    apart, most = agreement["relative_difference"], agreement["max_difference"]
    return [
        verdict(agreement),
        Phrase(
            "logits of {num_prompts} {num_prompts[prompt|prompts]}: {apart:.2%} apart (root mean "
            "square), {most:.3g} at most, with logits up to {largest:.3g}",
            num_prompts=agreement["num_prompts"],
            apart=apart,
            most=most,
            largest=agreement["largest_logit"],
        ),
        Phrase(
            "same likeliest token at {same} of {num_tokens} {num_tokens[position|positions]}",
            same=agreement["same_first_choice"],
            num_tokens=agreement["num_tokens"],
        ),
        Phrase("merged model: {target}", target=target),
        Phrase(
            "use it in transformers: transformers.AutoModelForCausalLM.from_pretrained({target!r})",
            target=str(target),
        ),
        *serving_lines(target, f"{name}-{target.absolute().parent.name}"),
    ]


def verdict(agreement: Mapping[str, Any]) -> str:
    """Return whether the merged model answers as the adapter on its base does."""
    if agreement["relative_difference"] <= ROUNDING:
        return Phrase(
            "verdict: good. The merged model answers as the adapter does; what is left "
            "is the rounding of 16-bit numbers"
        )
    return Phrase(
        "verdict: look at it. The merged model differs from the adapter by more than "
        "16-bit rounding: compare its answers before you use it"
    )
