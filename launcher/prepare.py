"""Run before the ranks start, in a process of its own: fetch the model, tokenize the data.

It imports what the ranks import, so the launching process itself stays small.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.checkpoint import Checkpoint, local_checkpoint
from launcher.records import Sample, data_file, read_samples
from launcher.run_directory import RunDirectory, write_json
from launcher.screen import redirect_output
from launcher.tokenization import IGNORED, Encoded, encode, use_plain_template_if_none
from planner.errors import InvalidFileError, InvalidRequestError, UserError
from planner.plan import Plan
from planner.spec import read_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the ranks start from; ``inputs.json``."""

    checkpoint: str
    """Folder of the base model."""
    base_name: str
    """What an adapter calls its base model."""
    num_samples: int
    num_tokens: int
    num_answer_tokens: int
    """Tokens that the loss counts."""
    num_truncated: int
    num_dropped: int
    """Samples whose answer begins behind the sequence length."""
    plain_template: bool
    """The tokenizer has no chat template of its own."""


def prepare(run: RunDirectory, screen: TextIO) -> None:
    plan = read_spec(Plan, run.plan)
    check_devices(plan)
    path = data_file(plan.data.source)
    samples = read_samples(path, answers_only=plan.data.loss_on == "answers")
    checkpoint = local_checkpoint(plan.model, screen)
    inputs = tokenize(plan, samples, checkpoint, run, path)
    write_json(run.inputs, asdict(inputs))
    print(describe(inputs, path), file=screen)


def check_devices(plan: Plan) -> None:
    """A plan for cards that are not here would otherwise train on the CPU without a word."""
    if plan.hardware.device == "cpu":
        return
    import torch

    found, wanted = torch.cuda.device_count(), plan.parallel.gpus_per_node
    if found < wanted:
        raise InvalidRequestError(
            f"the plan is for {wanted} x {plan.hardware.device_name} and PyTorch finds {found} "
            "CUDA devices here. Plan for this machine: plan --gpus auto"
        )


def tokenize(
    plan: Plan, samples: Sequence[Sample], checkpoint: Checkpoint, run: RunDirectory, data: Path
) -> Inputs:
    """Write the tokenized samples to the run directory; count what happened to them."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    if not tokenizer.is_fast:
        raise InvalidRequestError(f"{checkpoint.name} has no fast tokenizer (tokenizer.json).")
    plain_template = use_plain_template_if_none(tokenizer)
    encoded = encode_all(plan, samples, tokenizer, data)
    kept = [sample for sample in encoded if sample.has_labels]
    if not kept:
        length = plan.batch.sequence_length
        raise InvalidFileError(
            data, None, f"no record has an answer within {length} tokens. Raise sequence_length"
        )
    columns: dict[str, Any] = {
        "input_ids": [sample.input_ids for sample in kept],
        "labels": [sample.labels for sample in kept],
    }
    Dataset.from_dict(columns).save_to_disk(run.data)
    return Inputs(
        checkpoint=str(checkpoint.folder),
        base_name=checkpoint.name,
        num_samples=len(kept),
        num_tokens=sum(len(sample.input_ids) for sample in kept),
        num_answer_tokens=sum(label != IGNORED for sample in kept for label in sample.labels),
        num_truncated=sum(sample.truncated for sample in kept),
        num_dropped=len(encoded) - len(kept),
        plain_template=plain_template,
    )


def encode_all(plan: Plan, samples: Sequence[Sample], tokenizer: Any, data: Path) -> list[Encoded]:
    from jinja2 import TemplateError

    encoded = []
    for number, sample in enumerate(samples, start=1):
        try:
            encoded.append(
                encode(
                    sample,
                    tokenizer,
                    sequence_length=plan.batch.sequence_length,
                    loss_on=plan.data.loss_on,
                )
            )
        except TemplateError as error:
            raise InvalidFileError(
                data, None, f"record {number}: the model's chat template refuses it ({error})"
            ) from error
    return encoded


def describe(inputs: Inputs, path: Path) -> str:
    line = (
        f"data: {path.name}: {inputs.num_samples:,} samples, {inputs.num_tokens:,} tokens, "
        f"{inputs.num_answer_tokens:,} of them in the loss"
    )
    if inputs.num_truncated:
        line += f"; {inputs.num_truncated:,} cut to the sequence length"
    if inputs.num_dropped:
        line += f"; {inputs.num_dropped:,} left out (answer beyond the sequence length)"
    if inputs.plain_template:
        line += "; the tokenizer has no chat template: plain headings are used"
    return line


def main() -> None:
    run = RunDirectory(Path(sys.argv[1]))
    screen = redirect_output(run.preparation_log)
    try:
        prepare(run, screen)
    except UserError as error:
        print(f"error: {error}", file=screen)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
