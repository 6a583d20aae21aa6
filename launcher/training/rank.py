"""Main module of every rank: build the planned model, train it, save it, report.

python -m torch.distributed.run ... -m launcher.training.rank RUN_DIRECTORY
"""

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch
from transformers import AutoTokenizer, EarlyStoppingCallback, TrainerCallback, set_seed

from launcher.adapters.parted_base import part_base
from launcher.compat.deepspeed import load_tensors_alone
from launcher.compat.optimizers import load_projections
from launcher.compat.peft import ADAPTER
from launcher.data.chat_template import use_plain_template_if_none
from launcher.data.inputs import Inputs, read_inputs
from launcher.data.tables import training_table, validation_table
from launcher.display.live_view import expected_of
from launcher.display.utilisation import losses_of
from launcher.faults.failure import failure_of, forget_failure, write_failure
from launcher.faults.rank_stages import Stages
from launcher.run.attempts import attempt_of, begin_attempt
from launcher.run.checkpoints import last_whole, step_of
from launcher.run.end_with_parent import end_with_parent
from launcher.run.output import redirect_output
from launcher.run.process_memory import resident_bytes
from launcher.run.run_directory import RunDirectory
from launcher.storage.json_files import write_json
from launcher.training.batches.packed_batches import CheckDocumentsApart, packed_collator
from launcher.training.batches.shared_sequences import (
    SharesSequences,
    part_collator,
    share_sequences,
)
from launcher.training.callbacks import (
    RestoreUnloggedLoss,
    StageCallback,
    StopOnRequest,
    WriteAnswers,
)
from launcher.training.environment import describe_environment
from launcher.training.fully_sharded import shard
from launcher.training.measurements import gather, rank_memory
from launcher.training.model_building import (
    DTYPES,
    build_model,
    cast_trainable,
    pin_attention_backends,
)
from launcher.training.optimizer import projects
from launcher.training.planned_trainer import PlannedTrainer, trainer_class, training_arguments
from launcher.training.process_group import join_process_group
from launcher.training.progress_callbacks import Reporter, StepTimes, sensors_of
from launcher.training.report import Training, predicted_parts, write_report
from launcher.training.saving import save_result, stop_at
from launcher.training.setup_check import Setup, require_as_planned, require_same_data, setup_of
from launcher.training.weights_moved import WeightsMoved, unmoved_line
from planner.base.output_file import write_whole
from planner.base.phrases import language_of, speak
from planner.base.preset_files import translations
from planner.base.printable import print_text
from planner.base.strict_yaml import read_spec
from planner.plan.schema import Plan


class SetupCheck(TrainerCallback):  # type: ignore[misc]
    """A callback that stops before the first step if something else is set up than planned."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.setup: Setup | None = None
        """What is set up; None before training has begun."""

    def watch(self, trainer: PlannedTrainer) -> None:
        """Check this trainer when its training begins."""
        self._trainer = trainer
        trainer.add_callback(self)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Read the setup, compare it with the plan, and start the clock of the first step."""
        self.setup = setup_of(self._trainer)
        require_as_planned(self._plan, self.setup)
        self._trainer.restart_clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a rank begins: at the first step, or after a checkpoint."""

    stages: Stages
    checkpoint: str | None
    """Folder of the checkpoint; None to begin at the first step."""

    @property
    def step(self) -> int:
        """Number of steps that are made already."""
        return 0 if self.checkpoint is None else step_of(Path(self.checkpoint))


def train(
    run: RunDirectory, rank: int, screen: TextIO, *, stages: Stages, verified: Path | None
) -> None:
    """Train a run directory's plan as one of its ranks, and write the result and the report.

    ``screen`` is what the terminal shows; ``verified`` a checkpoint that need not be read again.
    """
    plan = read_spec(Plan, run.plan)
    inputs = read_inputs(run)
    stages.enter("load", 0)
    join_process_group(plan)
    load_tensors_alone(zero=plan.parallel.zero_stage > 0)
    if projects(plan.optimizer):
        load_projections()
    pin_attention_backends()
    arguments = training_arguments(plan, run.path)
    share_sequences(plan)
    require_same_data(gather(inputs.data_key))
    start = Start(stages=stages, checkpoint=agreed_checkpoint(run, rank, verified))
    resident_before_bytes = resident_bytes()
    if rank == 0:
        begin_files(plan, run, inputs, start)
        print_text(loading_line(plan), file=screen)
    trainer = build_trainer(plan, run, arguments, inputs, start=start)
    trainer.watch(plan, run, start.stages)
    start.stages.on_enter = trainer.stage_clock.enter
    stop = add_callbacks(trainer, plan, run, start)
    check = SetupCheck(plan)
    check.watch(trainer)
    times = StepTimes()
    trainer.add_callback(times)
    weights = WeightsMoved()
    trainer.add_callback(weights)
    sensors = sensors_of(plan, gather(os.getpid()))
    reporter = None
    if rank == 0:
        reporter = Reporter(
            screen,
            run.metrics,
            expected=expected_of(plan),
            sensors=sensors,
            losses=lambda: losses_of(trainer.parts, predicted_parts(plan)),
        )
        trainer.add_callback(reporter)

    began = time.perf_counter()
    train_to_end(trainer, reporter, start)
    run_time_s = time.perf_counter() - began
    if stop.stopped:
        return
    if not any(gather(weights.moved(trainer.model))) and rank == 0:
        print_text(unmoved_line(trainer.state.global_step - start.step), file=screen)
    memory = rank_memory(
        rank=rank,
        resident_before_model_bytes=resident_before_bytes,
        longest_batch_tokens=trainer.batches.longest,
        device=arguments.device,
    )
    ranks = gather(memory)
    start.stages.enter("save", trainer.state.global_step)
    if not run.probe.exists():
        save_result(plan, trainer, run, inputs.data["new_stops"])
    if reporter is not None and check.setup is not None:
        training = Training(
            num_steps=trainer.state.global_step,
            tokens_per_second=reporter.tokens_per_second,
            step_times_s=times.step_times_s,
            mean_row_tokens=trainer.batches.mean_tokens,
            parts=trainer.parts,
            saving_share=trainer.saving_s / run_time_s,
            run_time_s=run_time_s,
        )
        write_report(run, plan, inputs=inputs, setup=check.setup, training=training, ranks=ranks)


def loading_line(plan: Plan) -> str:
    """Return what is printed before the model is loaded: what takes long before the first step."""
    line = f"loading {plan.model.name}"
    if plan.adapter is None or not plan.adapter.changes_base:
        return line
    return f"{line}, whose matrices are decomposed on the host ({plan.adapter.init})"


def agreed_checkpoint(run: RunDirectory, rank: int, verified: Path | None) -> str | None:
    """Return the checkpoint to resume from, the same on every rank; None without one.

    Rank 0 looks for it, so that ranks which torch elastic has restarted resume together.
    """
    saved = last_whole(run.checkpoints, verified)[0] if rank == 0 else None
    folders: list[str | None] = gather(None if saved is None else str(saved.folder))
    return folders[0]


def train_to_end(trainer: PlannedTrainer, reporter: Reporter | None, start: Start) -> None:
    """Train to the last step; the terminal is restored if that fails."""
    try:
        trainer.train(resume_from_checkpoint=start.checkpoint)
    except BaseException:
        if reporter is not None:
            reporter.on_train_end()
        raise


def add_callbacks(
    trainer: PlannedTrainer, plan: Plan, run: RunDirectory, start: Start
) -> StopOnRequest:
    """Add the callbacks of a run, and return the one that knows of a request to stop."""
    trainer.add_callback(StageCallback(start.stages))
    if start.checkpoint is not None:
        trainer.add_callback(RestoreUnloggedLoss(trainer, Path(start.checkpoint)))
    evaluation = plan.training.evaluation
    if evaluation is not None:
        trainer.add_callback(WriteAnswers(plan, trainer, run, trainer.eval_dataset))
        if evaluation.early_stop_patience is not None:
            trainer.add_callback(EarlyStoppingCallback(evaluation.early_stop_patience))
    stop = StopOnRequest(plan, run, start.stages, trainer.together)
    trainer.add_callback(stop)
    return stop


def build_trainer(
    plan: Plan, run: RunDirectory, arguments: Any, inputs: Inputs, *, start: Start
) -> PlannedTrainer:
    """Return the trainer with the planned model, its tokenizer and its data."""
    set_seed(plan.training.seed)
    tokenizer = AutoTokenizer.from_pretrained(inputs.checkpoint)
    use_plain_template_if_none(tokenizer)
    model = build_model(plan, Path(inputs.checkpoint), arguments.device)
    if plan.adapter is not None and plan.adapter.changes_base:
        part_base(
            plan.adapter,
            model,
            run.initial_adapter,
            dtype=DTYPES[plan.kept_trainable],
            device=arguments.device,
            resumes=start.checkpoint is not None,
            at_matrix=lambda: start.stages.enter("load", 0),
        )
    if plan.parallel.strategy == "fsdp":
        shard(plan, model, arguments.device)
    stop_at(model, inputs.data["new_stops"].values())
    if plan.adapter is not None:
        model.peft_config[ADAPTER].base_model_name_or_path = inputs.base_name
    samples = training_table(inputs.data_folder)
    if run.probe.exists():
        samples = longest_samples(samples, plan.batch.global_batch_size)
    trainer = trainer_class(plan)(
        model=model,
        args=arguments,
        train_dataset=samples,
        eval_dataset=validation_table(inputs.data_folder),
        data_collator=collator_of(plan, tokenizer, arguments.process_index),
        processing_class=tokenizer,
    )
    if isinstance(trainer, SharesSequences):
        trainer.share(plan)
    if plan.batch.packing:
        trainer.add_callback(CheckDocumentsApart())
    # trl puts the adapters of a quantized model in bf16
    cast_trainable(trainer.model, plan.kept_trainable)
    return trainer


def collator_of(plan: Plan, tokenizer: Any, rank: int) -> Any:
    """Return what makes batches of samples on a rank; None for trl's own way."""
    if plan.parallel.sequence_parallel_size > 1:
        return part_collator(plan, tokenizer, rank)
    return packed_collator(tokenizer) if plan.batch.packing else None


def longest_samples(samples: Any, count: int) -> Any:
    """Return so many samples with the most tokens, some of them again where there are fewer."""
    lengths = [len(tokens) for tokens in samples.with_format(None)["input_ids"]]
    longest = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)[:count]
    return samples.select([longest[n % len(longest)] for n in range(count)])


def begin_files(plan: Plan, run: RunDirectory, inputs: Inputs, start: Start) -> None:
    """Write what is known before the first step, and drop rows of steps that are made again."""
    begin_attempt(run, attempt_of(plan, from_step=start.step))
    if run.node is not None:
        write_json(RunDirectory(run.path).inputs, asdict(inputs))
    write_json(run.environment, describe_environment())
    keep_rows(run.metrics, start.step)
    keep_rows(run.evaluations, start.step)


def keep_rows(file: Path, last_step: int) -> None:
    """Drop the rows after a step, and a row that was cut off, from a file of JSON lines."""
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [
            line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step
        ]
        write_whole(file, "".join(kept))


def arguments() -> argparse.ArgumentParser:
    """Return the command line of a rank."""
    parser = argparse.ArgumentParser(prog="launcher.training.rank")
    parser.add_argument("run", type=Path)
    parser.add_argument("--address", help="address of this node, if several share the folder")
    parser.add_argument("--verified", type=Path, help="checkpoint that need not be read again")
    return parser


def main() -> NoReturn:
    """Run one rank, and end the process as ``leave`` does."""
    end_with_parent()
    speak(translations(language_of(os.environ)))
    options = arguments().parse_args()
    run = RunDirectory(options.run, options.address)
    rank = int(os.environ["RANK"])
    forget_failure(run.ranks, rank)
    screen = redirect_output(run.rank_log(rank))
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.path / "tensorboard"))
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    stages = Stages(run.rank_place(rank), rank, run.node)
    try:
        train(run, rank, screen, stages=stages, verified=options.verified)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    except Exception as error:
        failure = failure_of(error, rank=rank, stage=stages.stage, step=stages.step)
        try:
            write_failure(run.ranks, failure)
            traceback.print_exc()
        except OSError:  # no byte is free, not even for the record
            print_text(f"error: rank {rank} ({failure.where}): {failure.message}", file=screen)
        leave(screen, 1)
    leave(screen, 0)


def leave(screen: TextIO, code: int) -> NoReturn:
    """End the process at once: all is written, and gloo's threads may still wait under DeepSpeed.

    Python's own way to end would abort around such a thread ("terminate called without an active
    exception"), and a run that has succeeded would be reported as failed.
    """
    for stream in (screen, sys.stdout, sys.stderr):
        with suppress(OSError):  # a log on a full disk
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
