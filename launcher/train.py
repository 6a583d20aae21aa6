"""What each rank runs: build the planned model, train it, save it, report.

python -m torch.distributed.run ... -m launcher.train RUN_DIRECTORY
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch
from transformers import AutoTokenizer, TrainerCallback, set_seed

from launcher.checks import Setup, require_as_planned, setup_of
from launcher.data_tables import training_table, validation_table
from launcher.environment import describe_environment
from launcher.measure import gather, rank_memory, resident_bytes
from launcher.model_building import build_model, cast_trainable
from launcher.packing import DocumentsApart, PackedCollator
from launcher.prepare import Inputs
from launcher.process import stop_with_parent
from launcher.process_group import join_process_group
from launcher.progress import Reporter, StepTimes, display_on
from launcher.report import Training, write_report
from launcher.run_directory import RunDirectory, read_json, write_json
from launcher.saving import save_result
from launcher.screen import redirect_output
from launcher.tokenization import use_plain_template_if_none
from launcher.training import PlannedTrainer, trainer_class, training_arguments
from planner.plan import Plan
from planner.spec import read_spec


class SetupCheck(TrainerCallback):  # type: ignore[misc]
    """Stops before the first step when the libraries set up something else than planned."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.found: Setup | None = None

    def watch(self, trainer: PlannedTrainer) -> None:
        self._trainer = trainer
        trainer.add_callback(self)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.found = setup_of(self._trainer)
        require_as_planned(self._plan, self.found)
        self._trainer.restart_clock()


def train(run: RunDirectory, rank: int, screen: TextIO) -> None:
    plan = read_spec(Plan, run.plan)
    inputs = Inputs(**read_json(run.inputs))
    join_process_group(plan)
    arguments = training_arguments(plan, run.path)
    resident_before_bytes = resident_bytes()
    if rank == 0:
        write_json(run.environment, describe_environment())
        print(f"loading {plan.model.name}", file=screen)
    trainer = build_trainer(plan, run, arguments, inputs)
    check = SetupCheck(plan)
    check.watch(trainer)
    times = StepTimes()
    trainer.add_callback(times)
    reporter = Reporter(display_on(screen), run.metrics) if rank == 0 else None
    if reporter is not None:
        trainer.add_callback(reporter)

    began = time.perf_counter()
    trainer.train()
    run_time_s = time.perf_counter() - began

    memory = rank_memory(
        rank=rank, resident_before_model_bytes=resident_before_bytes, device=arguments.device
    )
    ranks = gather(memory)
    save_result(plan, trainer, run.result(plan))
    if reporter is not None and check.found is not None:
        training = Training(
            num_steps=trainer.state.global_step,
            losses=reporter.losses,
            tokens_per_second=reporter.tokens_per_second,
            step_times_s=times.step_times_s,
            run_time_s=run_time_s,
        )
        write_report(run, plan, inputs=inputs, setup=check.found, training=training, ranks=ranks)


def build_trainer(plan: Plan, run: RunDirectory, arguments: Any, inputs: Inputs) -> PlannedTrainer:
    set_seed(plan.training.seed)
    tokenizer = AutoTokenizer.from_pretrained(inputs.checkpoint)
    use_plain_template_if_none(tokenizer)
    model = build_model(plan, Path(inputs.checkpoint), arguments.device)
    if plan.adapter is not None:
        model.peft_config["default"].base_model_name_or_path = inputs.base_name
    trainer = trainer_class(plan)(
        model=model,
        args=arguments,
        train_dataset=training_table(inputs.data_folder),
        eval_dataset=validation_table(inputs.data_folder),
        data_collator=PackedCollator(tokenizer.pad_token_id) if plan.batch.packing else None,
        processing_class=tokenizer,
    )
    if plan.batch.packing:
        trainer.add_callback(DocumentsApart())
    # trl puts the adapters of a quantized model in bf16
    cast_trainable(trainer.model, plan.precision.trainable)
    return trainer


def main() -> None:
    stop_with_parent()
    run = RunDirectory(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    screen = redirect_output(run.rank_log(rank))
    train(run, rank, screen)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    leave(screen)


def leave(screen: TextIO) -> NoReturn:
    """End at once: all is saved, and gloo's threads may still be waiting under DeepSpeed.

    Unwinding the process around such a thread aborts it ("terminate called without an
    active exception"), and a run that has succeeded would be reported as failed.
    """
    for stream in (screen, sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
