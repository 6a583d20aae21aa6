"""A trainer that can be killed at any moment and resumed with the same losses.

transformers' Trainer restores weights, optimizer, scheduler, gradient scaler, random numbers and
the place in the data. Added here: checkpoints that are whole or absent, losses that were summed and
not logged yet, the stage of every rank, and the end of a run whose loss is not finite.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from launcher.compat.optimizers import leave_kernels_to_cuda
from launcher.compat.transformers import TrainerHooks, UnloggedLoss
from launcher.faults.failure import NotFiniteError, NotSavedError, is_lost_peer
from launcher.faults.rank_stages import Stages
from launcher.run.checkpoints import checkpoint_folder, keep_newest, seal
from launcher.run.run_directory import RunDirectory
from launcher.training.fully_sharded import reduce_between_copies
from launcher.training.model_building import (
    DTYPES,
    cast_shared,
    cast_trainable,
    shared_precision,
)
from launcher.training.optimizer import (
    begin_training,
    lora_plus_optimizer,
    prepare_compilation,
    projected_modules,
    projects,
    separate_parts,
    warm_up_by_schedule_alone,
)
from launcher.training.saving import load_parts, save_parts, why_not_saved
from planner.plan.schema import Plan

_FINITE = 2**62
"""Number that stands for "no step": every loss was finite."""


class DurableTrainer(TrainerHooks, SFTTrainer):  # type: ignore[misc]
    """trl's trainer with whole checkpoints; call ``watch`` before ``train``."""

    optimizer: Any

    def watch(self, plan: Plan, run: RunDirectory, stages: Stages) -> None:
        """Set the plan, the run directory, and where stages are marked."""
        self._plan, self._run, self._stages = plan, run, stages
        self._not_finite_at = torch.tensor(_FINITE, device=self.args.device)

    @property
    def running_step(self) -> int:
        """Number of the optimizer step that runs, from 1."""
        return int(self.state.global_step) + 1

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Return the loss of a micro-batch, and note on the device whether it is finite."""
        self._stages.enter("forward", self.running_step)
        reduce_between_copies(self._plan, model, now=self.accelerator.sync_gradients)
        loss = super().training_step(model, inputs, *rest, **named)
        bad = torch.where(torch.isfinite(loss), _FINITE, self.running_step)
        self._not_finite_at = torch.minimum(self._not_finite_at, bad)
        return loss

    def compute_loss(self, *inputs: Any, **options: Any) -> Any:
        """Return the planned loss, after which the backward pass begins."""
        loss = self.planned_loss(*inputs, **options)
        if self.model.training:
            self._stages.enter("backward", self.running_step)
        return loss

    def planned_loss(self, *inputs: Any, **options: Any) -> Any:
        """Return trl's loss, by its fused head."""
        return super().compute_loss(*inputs, **options)

    def create_optimizer(self, *models: Any) -> Any:
        """Make the optimizer; for LoRA+ with two learning rates."""
        fresh = self.optimizer is None
        if projects(self._plan.optimizer):
            self.args.optim_target_modules = projected_modules(self.model)
        prepare_compilation(self._plan.optimizer)
        with warm_up_by_schedule_alone(self.args):
            if self.optimizer is None and self._plan.optimizer.lora_plus_ratio is not None:
                self.optimizer = lora_plus_optimizer(
                    self.model, self.args, ratio=self._plan.optimizer.lora_plus_ratio
                )
            made = super().create_optimizer(*models)
        if fresh:
            begin_training(made)
            leave_kernels_to_cuda(made)
            if self.is_in_parts:
                separate_parts(made)
        return made

    def prediction_step(self, *inputs: Any, **options: Any) -> Any:
        """Evaluate one batch."""
        self._stages.enter("evaluation", int(self.state.global_step))
        return super().prediction_step(*inputs, **options)

    def require_finite(self) -> None:
        """Raise ``NotFiniteError`` with the first step whose loss was not finite.

        Waits for the device, so it is called where something else waits, too.
        """
        step = int(self.accelerator.gather(self._not_finite_at).min().item())
        if step < _FINITE:
            raise NotFiniteError(
                f"the loss is not finite at step {step}. Lower optimizer.learning_rate, or check "
                "the data of that step"
            )

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        """Log, unless a loss was not finite.

        The trainer's own history of logs is dropped: it grows with every step, in memory and in
        every checkpoint, and ``metrics.jsonl`` has it.
        """
        if "loss" in logs:
            self.require_finite()
        super().log(logs, *rest)
        self.state.log_history.clear()

    @property
    def is_in_parts(self) -> bool:
        """Whether each rank has a part of every matrix."""
        return self._plan.parallel.strategy == "tensor"

    def save_parts(self, checkpoint: Path) -> None:
        """Write this rank's part of a checkpoint."""
        save_parts(self.model, self.optimizer, checkpoint)

    def load_parts(self, checkpoint: Path) -> None:
        """Read this rank's part of a checkpoint."""
        load_parts(self.model, self.optimizer, checkpoint)

    def checkpoints_folder(self) -> Path:
        """Return the folder in the run directory that checkpoints are written to."""
        return self._run.checkpoints

    def save_checkpoint(self, write: Callable[[], None]) -> None:
        """Write a checkpoint, seal it when it is whole, and remove the oldest.

        Called on every rank. Raises ``NotSavedError`` if it cannot be written; what is written of
        it is removed, so that a full disk has room for what is said of it.
        """
        step = int(self.state.global_step)
        self._stages.enter("save", step)
        self.require_finite()
        folder = checkpoint_folder(self._run.checkpoints, step)
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            write()
            self._save_unlogged(folder)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                parallel = self._plan.parallel
                seal(folder, world_size=parallel.world_size, strategy=parallel.strategy)
                keep_newest(self._run.checkpoints, self._plan.training.keep_checkpoints)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if is_lost_peer(error):
                raise
            reason = why_not_saved(f"the checkpoint of step {step}", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
            raise NotSavedError(reason) from error
        self.accelerator.wait_for_everyone()

    def _unlogged(self, folder: Path) -> Path:
        return folder / f"unlogged-{self.args.process_index}.json"

    def _save_unlogged(self, folder: Path) -> None:
        text = json.dumps(self.unlogged_loss()._asdict())
        self._unlogged(folder).write_text(text, encoding="utf-8")

    def restore_unlogged(self, checkpoint: Path) -> None:
        """Restore the loss that a checkpoint was saved with; called when training has begun."""
        stored = json.loads(self._unlogged(checkpoint).read_bytes())
        self.restore_unlogged_loss(UnloggedLoss(**stored))

    def checkpoint_loaded(self) -> None:
        """Cast adapters to the planned precision: peft loads them in fp32."""
        cast_trainable(self.model, self._plan.kept_trainable)
        if self._plan.adapter is not None and self._plan.adapter.vera:
            cast_shared(self.model, DTYPES[shared_precision(self._plan)])
