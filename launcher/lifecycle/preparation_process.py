"""The preparation of a run, in a process of its own: fetch the model, tokenize the data.

python -m launcher.lifecycle.preparation_process RUN_DIRECTORY [--address ADDRESS]

It imports what the ranks import, so that the launching process stays small.
"""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from launcher.base_model.find_checkpoint import Checkpoint, local_checkpoint
from launcher.base_model.tokenizer_files import fast_tokenizer
from launcher.data.cache import (
    Entry,
    content_key,
    data_cache,
    found_entry,
    kept_lock,
    make_entry,
    whole_entry,
)
from launcher.data.chat_template import use_plain_template_if_none
from launcher.data.inputs import Inputs, inputs_before, write_inputs
from launcher.data.samples import preview
from launcher.data.sources import FoundSource, find_sources
from launcher.data.stop_tokens import stop_token_ids
from launcher.data.summary import DataSummary, describe
from launcher.display.shown_samples import show_samples
from launcher.run.output import redirect_output
from launcher.run.run_directory import RunDirectory
from launcher.run.unwinding import unwound_by_sigterm
from launcher.storage.json_files import read_json
from planner.base.errors import InvalidRequestError, UserError, exhausted
from planner.base.phrases import Phrase, language_of, speak
from planner.base.preset_files import translations
from planner.base.printable import print_text
from planner.base.strict_yaml import read_spec
from planner.plan.rope_scaling import scaled_config
from planner.plan.schema import Plan


def prepare(run: RunDirectory, screen: TextIO, *, shown_samples: int = 1) -> None:
    """Fetch the model and tokenize the data of a run, and write where both are.

    ``shown_samples`` is how many samples are shown as they are learnt. Raise ``UserError`` for a
    wrong record, a missing model and the like.
    """
    plan = read_spec(Plan, run.plan)
    check_devices(plan)
    sources = find_sources(plan.data)
    for source in sources:
        preview(source, loss_on=plan.data.loss_on, errors=plan.data.errors)
    checkpoint = local_checkpoint(plan.model, screen)
    scaled_config(
        read_json(checkpoint.folder / "config.json"), plan.model.rope_scaling, checkpoint.name
    )
    entry = prepared_data(plan, sources, checkpoint, screen)
    require_same_data(run, entry)
    inputs = Inputs(
        checkpoint=str(checkpoint.folder),
        base_name=checkpoint.name,
        data_folder=str(entry.folder),
        data_key=entry.folder.name,
        file_digests=[source.digests for source in sources],
        data=dict(entry.summary),
    )
    write_inputs(run, inputs)
    for line in describe(DataSummary(**entry.summary), plan.batch.sequence_length):
        print_text(line, file=screen)
    show_samples(str(entry.folder), load_tokenizer(checkpoint)[0], shown_samples, screen)


def require_same_data(run: RunDirectory, entry: Entry) -> None:
    """Raise ``InvalidRequestError`` if a run is resumed with other data than it began with."""
    before = inputs_before(run)
    if before is not None and before.data_key != entry.folder.name:
        raise InvalidRequestError(
            Phrase(
                "{path} cannot be resumed: the data, the tokenizer or the versions of "
                "tokenizers and transformers have changed since it began, and its tokenized "
                "samples are gone. Restore them, or start another run with --output DIR",
                path=run.path,
            )
        )


def check_devices(plan: Plan) -> None:
    """Raise ``InvalidRequestError`` if PyTorch finds fewer GPUs than the plan needs.

    Training would otherwise run on the CPU silently.
    """
    if plan.hardware.device == "cpu":
        return
    import torch

    available, needed = torch.cuda.device_count(), plan.parallel.gpus_per_node
    if available < needed:
        raise InvalidRequestError(
            Phrase(
                "the plan is for {needed} x {device_name} and PyTorch finds {available} CUDA "
                "devices here. Plan for this machine: plan --gpus auto",
                needed=needed,
                device_name=plan.hardware.device_name,
                available=available,
            )
        )


def prepared_data(
    plan: Plan, sources: tuple[FoundSource, ...], checkpoint: Checkpoint, screen: TextIO
) -> Entry:
    """Return the tokenized data set, kept from an earlier launch or made now."""
    from launcher.data.preparation import DataPreparation, key_content, settings_of
    from launcher.display.preparation_progress import PreparationProgress

    settings = settings_of(plan)
    tokenizer, plain_template = load_tokenizer(checkpoint)
    files = [file.path for source in sources for file in source.files]
    key = content_key(
        {
            **key_content(settings, sources),
            "data": [source.digests for source in sources],
            "tokenizer": tokenizer_key(tokenizer),
            "stops": stop_token_ids(checkpoint.folder),
        }
    )
    folder = data_cache("data") / key

    def fill(partial: Path) -> dict[str, Any]:
        total_bytes = sum(path.stat().st_size for path in files)
        progress = PreparationProgress(screen, total_bytes)
        preparation = DataPreparation(settings, tokenizer, progress, checkpoint=checkpoint.folder)
        preparation.summary.plain_template = plain_template
        return preparation.write(sources, partial).as_dict()

    kept = whole_entry(folder)
    if kept is None:
        with kept_lock(folder):
            kept = found_entry(folder, lambda line: print_text(line, file=screen))
            if kept is None:
                return make_entry(folder, fill)
    print_text(Phrase("data: already tokenized, in {folder}", folder=folder), file=screen)
    return kept


def load_tokenizer(checkpoint: Checkpoint) -> tuple[Any, bool]:
    """Return the tokenizer with a chat template, and whether that is the plain one."""
    tokenizer = fast_tokenizer(checkpoint.folder)
    return tokenizer, use_plain_template_if_none(tokenizer)


def tokenizer_key(tokenizer: Any) -> dict[str, Any]:
    """Return all that decides tokens: the tokenizer, its special tokens and its template."""
    return {
        "backend": tokenizer.backend_tokenizer.to_str(),
        "template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }


def main() -> None:
    """Prepare the run of ``sys.argv``; the exit code is a user error's if there is one."""
    parser = argparse.ArgumentParser(prog="launcher.lifecycle.preparation_process")
    parser.add_argument("run", type=Path)
    parser.add_argument("--address", help="address of this node, if several share the folder")
    parser.add_argument("--show-sample", type=int, default=1, help="number of samples to show")
    given = parser.parse_args()
    speak(translations(language_of(os.environ)))
    run = RunDirectory(given.run, given.address)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # nothing forks here
    screen = redirect_output(run.preparation_log)
    try:
        with unwound_by_sigterm():
            prepare(run, screen, shown_samples=given.show_sample)
    except UserError as error:
        refuse(error, screen)
    except OSError as error:
        lacking = exhausted(error)
        if lacking is None:
            raise
        refuse(lacking, screen)


def refuse(error: UserError, screen: TextIO) -> NoReturn:
    """End the process with the error's line, on the terminal and in the log."""
    line = Phrase("error: {message}", message=error.message)
    print_text(line, file=screen)
    with suppress(OSError):  # the disk of the log is full
        print_text(line)
    raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
