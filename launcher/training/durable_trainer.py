"""A trainer that can be ended at any moment and gone on with as if nothing had happened.

transformers' Trainer restores weights, optimizer, scheduler, gradient scaler, random numbers
and the place in the data. Added here: checkpoints that are whole or not there, losses that were
summed and not logged yet, and a word of each rank on where it is.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from launcher.compat.transformers import TrainerHooks, UnloggedLoss
from launcher.faults.failure import NotFiniteError, NotSavedError, is_lost_peer
from launcher.faults.rank_stages import Stages
from launcher.run.checkpoints import checkpoint_folder, keep_newest, seal
from launcher.run.run_directory import RunDirectory
from launcher.training.model_building import cast_trainable
from launcher.training.optimizer import lora_plus_optimizer
from launcher.training.saving import why_not_saved
from planner.plan.schema import Plan

_FINITE = 2**62
"""As the number of a step without a loss that is no number."""


class DurableTrainer(TrainerHooks, SFTTrainer):  # type: ignore[misc]
    """trl's trainer with checkpoints of its own. ``watch`` comes before ``train``."""

    optimizer: Any

    def watch(self, plan: Plan, run: RunDirectory, stages: Stages) -> None:
        self._plan, self._run, self._stages = plan, run, stages
        self._not_finite_at = torch.tensor(_FINITE, device=self.args.device)

    @property
    def running_step(self) -> int:
        """The optimizer step that is being made, from 1."""
        return int(self.state.global_step) + 1

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        self._stages.enter("forward", self.running_step)
        loss = super().training_step(model, inputs, *rest, **named)
        bad = torch.where(torch.isfinite(loss), _FINITE, self.running_step)
        self._not_finite_at = torch.minimum(self._not_finite_at, bad)
        return loss

    def compute_loss(self, *inputs: Any, **options: Any) -> Any:
        loss = self.planned_loss(*inputs, **options)
        if self.model.training:
            self._stages.enter("backward", self.running_step)
        return loss

    def planned_loss(self, *inputs: Any, **options: Any) -> Any:
        """trl's: its fused head."""
        return super().compute_loss(*inputs, **options)

    def create_optimizer(self, *models: Any) -> Any:
        if self.optimizer is None and self._plan.optimizer.lora_plus_ratio is not None:
            self.optimizer = lora_plus_optimizer(
                self.model, self.args, ratio=self._plan.optimizer.lora_plus_ratio
            )
        return super().create_optimizer(*models)

    def prediction_step(self, *inputs: Any, **options: Any) -> Any:
        self._stages.enter("evaluation", int(self.state.global_step))
        return super().prediction_step(*inputs, **options)

    def require_finite(self) -> None:
        """Looked at when the device is waited for anyway; the step is remembered on the device."""
        step = int(self.accelerator.gather(self._not_finite_at).min().item())
        if step < _FINITE:
            raise NotFiniteError(
                f"the loss is not finite at step {step}. Lower optimizer.learning_rate, or look at "
                "the data of that step"
            )

    def log(self, logs: dict[str, float], *rest: Any) -> None:
        if "loss" in logs:
            self.require_finite()
        super().log(logs, *rest)

    def checkpoints_folder(self) -> Path:
        return self._run.checkpoints

    def save_checkpoint(self, write: Callable[[], None]) -> None:
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
            what = f"the checkpoint of step {step}"
            raise NotSavedError(why_not_saved(what, folder, error)) from error
        self.accelerator.wait_for_everyone()

    def _unlogged(self, folder: Path) -> Path:
        return folder / f"unlogged-{self.args.process_index}.json"

    def _save_unlogged(self, folder: Path) -> None:
        text = json.dumps(self.unlogged_loss()._asdict())
        self._unlogged(folder).write_text(text, encoding="utf-8")

    def restore_unlogged(self, checkpoint: Path) -> None:
        """When training has begun again: before that, transformers sets them to nothing."""
        stored = json.loads(self._unlogged(checkpoint).read_bytes())
        self.restore_unlogged_loss(UnloggedLoss(**stored))

    def checkpoint_loaded(self) -> None:
        """peft would put loaded adapters in fp32."""
        cast_trainable(self.model, self._plan.precision.trainable)
