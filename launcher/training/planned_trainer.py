"""trl's trainer, set up exactly as the plan says."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig

from launcher.display.utilisation import RankParts
from launcher.training.batches.shared_sequences import SharesSequences
from launcher.training.clocks import AGREEMENT, BETWEEN, BatchClock, StageClock
from launcher.training.deepspeed_config import deepspeed_config
from launcher.training.durable_trainer import DurableTrainer
from launcher.training.measurements import gather
from launcher.training.optimizer import optimizer_settings
from launcher.training.process_group import collective_limit_s
from planner.plan.schema import Plan
from planner.plan.vocabulary import SHARES_SAMPLES, Precision


def training_arguments(plan: Plan, run_directory: Path) -> SFTConfig:
    """Return the trainer's arguments.

    Make them before the model: they form the process group, and ZeRO-3 shards while loading. A
    trainer refuses to begin with checkpoints of a model that is cut, of which it would save one
    part, as our trainer does not (launcher/training/saving.py); read:
    transformers/trainer.py at 5.23.0, __init__.
    """
    on_cpu = plan.hardware.device == "cpu"
    return SFTConfig(
        output_dir=str(run_directory),
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and plan.parallel.world_size > 1 else None,
        ddp_find_unused_parameters=False,
        **_buffers(plan),
        deepspeed=deepspeed_config(plan),
        **_fsdp(plan),
        save_only_model=plan.parallel.strategy == "tensor",
        bf16=_mixed_precision(plan) == "bf16",
        fp16=_mixed_precision(plan) == "fp16",
        **_length(plan),
        **_optimization(plan),
        **activation_checkpointing(plan),
        max_length=plan.batch.sequence_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=not on_cpu,
        logging_strategy="steps",
        logging_steps=plan.training.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=plan.training.save_steps,
        **_evaluation(plan),
        neftune_noise_alpha=plan.training.neftune_noise_alpha,
        report_to=list(plan.training.report_to) or "none",
        ddp_timeout=collective_limit_s(plan),
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
        seed=plan.training.seed,
        data_seed=plan.training.seed,
    )


def _buffers(plan: Plan) -> dict[str, Any]:
    """Return what DDP does with buffers in every forward pass: nothing with those that VeRA's
    adapters share, since none of them changes."""
    has_shared = plan.adapter is not None and plan.adapter.vera
    return {"ddp_broadcast_buffers": False} if has_shared else {}


def _mixed_precision(plan: Plan) -> Precision | None:
    """Return the precision that accelerate or DeepSpeed mixes with fp32; None where the model is
    trained as it is."""
    mixed = plan.precision.autocast or plan.parallel.zero is not None
    return plan.precision.compute if mixed else None


def _fsdp(plan: Plan) -> dict[str, Any]:
    """Return the trainer's arguments for FSDP2: the model comes in shards already
    (launcher/training/fully_sharded.py), each rank writes its own of a checkpoint, and each
    micro-batch reduces its gradients, which would be whole on every rank otherwise; over all copies
    of the parameters only the last one of a step."""
    if plan.parallel.strategy != "fsdp":
        return {}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "NO_WRAP",
            "state_dict_type": "SHARDED_STATE_DICT",
        },
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def _length(plan: Plan) -> dict[str, Any]:
    length: dict[str, Any] = {
        "per_device_train_batch_size": plan.batch.micro_batch_size,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
    }
    if plan.training.epochs is not None:
        length["num_train_epochs"] = plan.training.epochs
    if plan.training.max_steps is not None:
        length["max_steps"] = plan.training.max_steps
    return length


def _evaluation(plan: Plan) -> dict[str, Any]:
    if plan.training.evaluation is None:
        return {"eval_strategy": "no"}
    return {
        "eval_strategy": "steps",
        "eval_steps": plan.training.evaluation.every_steps,
        "per_device_eval_batch_size": plan.batch.micro_batch_size,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def _optimization(plan: Plan) -> dict[str, Any]:
    warm_up = plan.schedule.warmup_ratio
    kind: str = plan.schedule.kind
    if kind == "constant" and warm_up > 0:
        kind = "constant_with_warmup"
    return {
        **optimizer_settings(plan.optimizer),
        "lr_scheduler_type": kind,
        "warmup_steps": warm_up,  # below 1 it is a share of all steps
    }


def activation_checkpointing(plan: Plan) -> dict[str, Any]:
    """Return the trainer's arguments for activation checkpointing.

    It is non-reentrant, except for adapters under ZeRO-3, where it cannot recompute with gathered
    weights, and for quantized products, which hold their inputs all the same.
    """
    if not plan.activation_checkpointing:
        return {"gradient_checkpointing": False}
    reentrant = plan.adapter is not None and plan.parallel.zero_stage == 3
    if plan.quantization is not None and plan.quantization.hides_inputs:
        reentrant = True
    settings: dict[str, Any] = {"use_reentrant": reentrant}
    if plan.checkpoint_every > 1:
        settings["every_n_layers"] = plan.checkpoint_every
    if plan.activation_offloading:
        settings["offload"] = True
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": settings}


def warm_up_steps(share: float, num_steps: int) -> int:
    """Return the whole steps in a share of all; the first of them has a learning rate of zero.

    >>> [warm_up_steps(0.03, steps) for steps in (1, 33, 34, 1000)]
    [0, 0, 1, 30]
    """
    return int(share * num_steps + 1e-9)


class LogFirstAndLast(TrainerCallback):  # type: ignore[misc]
    """A callback that logs the first and the last step, too, whatever the plan's interval."""

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a log after those two steps."""
        if state.global_step in (1, state.max_steps):
            control.should_log = True


class EndUpdate(TrainerCallback):  # type: ignore[misc]
    """A callback that notes on a clock that the optimizer has made its update."""

    def __init__(self, clock: StageClock) -> None:
        self._clock = clock

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Begin what comes between two steps."""
        self._clock.enter(BETWEEN)


class PlannedTrainer(DurableTrainer):
    """trl's trainer with its fused loss head, which counts tokens and times steps."""

    sequence_ranks = 1
    """Number of ranks that share each sequence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.args.save_only_model = False  # see training_arguments
        self.add_callback(LogFirstAndLast())
        self._tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self._logged_at = time.perf_counter()
        self._logged_step = 0
        self.batches = BatchClock()
        self.stage_clock = StageClock(self.args.device)
        self.add_callback(EndUpdate(self.stage_clock))
        self.model.register_forward_pre_hook(self._begin_forward)
        self.model.register_forward_hook(self._end_forward)
        self.parts: list[RankParts] = []
        """Parts of a step of every rank, of the steps that were logged last."""
        self.saving_s = 0.0
        """Seconds of all checkpoints so far."""

    def sequences_alone(self) -> AbstractContextManager[None]:
        """Have each rank attend to sequences of its own inside the block, as it does anyway."""
        return nullcontext()

    def together(self, run: Callable[[], Any]) -> Any:
        """Return what ``run`` returns, and time how long a training rank waits in it."""
        if not self.model.training:
            return run()
        self.stage_clock.enter(AGREEMENT)
        result = run()
        self.stage_clock.enter(BETWEEN)
        return result

    def compute_loss(self, *inputs: Any, **options: Any) -> Any:
        """Return the planned loss; before the model itself runs, DDP waits for the buffers of the
        first rank."""
        if self.model.training:
            self.stage_clock.enter(AGREEMENT)
        return super().compute_loss(*inputs, **options)

    def _begin_forward(self, model: Any, _inputs: Any) -> None:
        """Note that a training pass enters the model."""
        if model.training:
            self.stage_clock.enter("forward")

    def _end_forward(self, model: Any, _inputs: Any, _outputs: Any) -> None:
        """Note that a training pass has left the model."""
        if model.training:
            self.stage_clock.enter(AGREEMENT)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Round the share of warm-up down, so that a run of a step or two is not all warm-up."""
        share = self.args.warmup_steps
        if share < 1:
            self.args.warmup_steps = warm_up_steps(share, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, batches: Any, *rest: Any, **named: Any) -> Any:
        """Return the batches of one step, and time them."""
        return super().get_batch_samples(self.batches.timed(batches), *rest, **named)

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Return the loss of a micro-batch, and count its tokens."""
        self._tokens += _num_tokens(inputs)
        self.batches.note_length(inputs["input_ids"].shape[-1] * self.sequence_ranks)
        return super().training_step(model, inputs, *rest, **named)

    def restart_clock(self) -> None:
        """Begin a new interval of speed."""
        self._tokens.zero_()
        self.batches.restart()
        self.stage_clock.take()
        self._logged_at = time.perf_counter()
        self._logged_step = self.state.global_step

    def evaluate(self, *inputs: Any, **options: Any) -> Any:
        """Evaluate while the clock stands."""
        with self.clock_stopped():
            return super().evaluate(*inputs, **options)

    def save_checkpoint(self, write: Callable[[], None]) -> None:
        """Save while the clock stands."""
        began = time.perf_counter()
        with self.clock_stopped():
            super().save_checkpoint(write)
        self.saving_s += time.perf_counter() - began

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Leave the time of the block out of the speed that is logged."""
        began = time.perf_counter()
        yield
        self._logged_at += time.perf_counter() - began

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a loss with the speed since the last logged step."""
        if "loss" in logs:
            parallel = self._plan.parallel
            tokens = self.accelerator.reduce(self._tokens, reduction="sum").item()
            if parallel.strategy in SHARES_SAMPLES:
                tokens /= parallel.world_size  # all have counted the same samples
            seconds = time.perf_counter() - self._logged_at
            steps = max(1, self.state.global_step - self._logged_step)
            logs["tokens_per_second"] = tokens / seconds
            logs["step_time_s"] = seconds / steps
            logs["data_wait_s"] = self.batches.seconds / steps
            self.parts = gather(parts_of(self.stage_clock.take(), self.batches.seconds, steps))
            self.restart_clock()
        super().log(logs, start_time)


def parts_of(seconds: Mapping[str, float], data_s: float, steps: int) -> RankParts:
    """Return the parts of one of so many steps; the trainer fetches batches between two of them."""
    between_s = sum(seconds.get(stage, 0.0) for stage in ("load", "step_end", BETWEEN, "end"))
    return RankParts(
        data_s=data_s / steps,
        forward_s=seconds.get("forward", 0.0) / steps,
        agreement_s=seconds.get(AGREEMENT, 0.0) / steps,
        backward_s=seconds.get("backward", 0.0) / steps,
        update_s=seconds.get("optimizer_step", 0.0) / steps,
        other_s=max(0.0, between_s - data_s) / steps,
    )


class StandardLossTrainer(PlannedTrainer):
    """A trainer with the model's own cross-entropy, on logits of the whole vocabulary."""

    def planned_loss(self, *inputs: Any, **options: Any) -> Any:
        """Return transformers' loss."""
        return self.standard_loss(*inputs, **options)


class SharedTrainer(SharesSequences, PlannedTrainer):
    """A trainer of sequences that several ranks share."""


class SharedStandardLossTrainer(SharesSequences, StandardLossTrainer):
    """The same with the model's own cross-entropy."""


def trainer_class(plan: Plan) -> type[PlannedTrainer]:
    """Return the trainer with the plan's loss."""
    if plan.parallel.sequence_parallel_size > 1:
        return SharedTrainer if plan.loss == "fused" else SharedStandardLossTrainer
    return PlannedTrainer if plan.loss == "fused" else StandardLossTrainer


def _num_tokens(inputs: dict[str, Any]) -> torch.Tensor:
    """Return the tokens of a batch without its padding, on its device."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.tensor(inputs["input_ids"].numel(), device=inputs["input_ids"].device)
    total: torch.Tensor = mask.sum()
    return total
