"""Callbacks of the trainer: stages, a request to stop, the answers of an evaluation."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

from launcher.data.generated_text import whole_characters
from launcher.faults.rank_stages import Stages
from launcher.run.run_directory import RunDirectory
from launcher.training.durable_trainer import DurableTrainer
from launcher.training.process_group import collective_limit_s
from planner.plan.schema import Plan


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """A callback that marks the stages which the trainer's own methods do not mark."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Mark the optimizer step."""
        self._stages.enter("optimizer_step", state.global_step + 1)

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Mark the end."""
        self._stages.enter("end", state.global_step)


class StopOnRequest(TrainerCallback):  # type: ignore[misc]
    """A callback that saves and stops after the same step on every rank, once one is asked to.

    The ranks agree over a group of their own in host memory, so that nothing waits for a device.
    """

    def __init__(
        self,
        plan: Plan,
        run: RunDirectory,
        stages: Stages,
        together: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._request, self._stages, self._together = run.stop, stages, together
        self.stopped = False
        """Whether training ended on request."""
        self._group: Any = None
        if torch.distributed.is_initialized() and plan.parallel.world_size > 1:
            limit = timedelta(seconds=collective_limit_s(plan))
            self._group = torch.distributed.new_group(backend="gloo", timeout=limit)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask every rank for the request, and save and stop if one has seen it."""
        self._stages.enter("step_end", state.global_step)
        if state.global_step >= state.max_steps:
            control.should_save = False  # the result is saved next
        elif self._together(self._asked):
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def _asked(self) -> bool:
        asked = torch.tensor(int(self._request.exists()))
        if self._group is not None:
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(asked.item())


class RestoreUnloggedLoss(TrainerCallback):  # type: ignore[misc]
    """A callback that restores what transformers forgets of an interrupted run."""

    def __init__(self, trainer: DurableTrainer, checkpoint: Path) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Restore the sums, which transformers has just set to zero, and the plan's intervals.

        The checkpoint has the intervals of logs and checkpoints with which it was written.
        """
        self._trainer.restore_unlogged(self._checkpoint)
        state.compute_steps(args, state.max_steps)


class WriteAnswers(TrainerCallback):  # type: ignore[misc]
    """A callback that writes every evaluation's loss, and the model's answers beside the expected.

    All ranks generate, because sharded weights are gathered by all of them; rank 0 writes.
    """

    def __init__(self, plan: Plan, trainer: Any, run: RunDirectory, samples: Any) -> None:
        assert plan.training.evaluation is not None
        self._evaluation = plan.training.evaluation
        self._sharded = plan.parallel.shards_parameters
        self._trainer, self._file = trainer, run.evaluations
        number = min(self._evaluation.generated_samples, len(samples))
        self._asked = [split_answer(samples[index]) for index in range(number)]

    def on_evaluate(
        self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        """Generate the answers on every rank, and append one row on rank 0."""
        answers = [self._answer(prompt) for prompt, _ in self._asked]
        if not self._trainer.accelerator.is_main_process:
            return
        decode = self._decoded
        row = {
            "step": state.global_step,
            "eval_loss": metrics["eval_loss"],
            "answers": [
                {"prompt": decode(prompt), "expected": decode(expected), "answer": decode(answer)}
                for (prompt, expected), answer in zip(self._asked, answers, strict=True)
            ],
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _decoded(self, tokens: Sequence[int]) -> str:
        return whole_characters(self._trainer.processing_class.decode(tokens))

    def _answer(self, prompt: Sequence[int]) -> list[int]:
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokens = torch.tensor([prompt], device=trainer.args.device)
        # peft generates with the model inside of its own, whose forward accelerate has not wrapped
        with torch.no_grad(), trainer.accelerator.autocast(), trainer.sequences_alone():
            tokens_out = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=self._evaluation.max_new_tokens,
                do_sample=False,
                use_cache=True,
                synced_gpus=self._sharded,
            )
        generated: list[int] = tokens_out[0, len(prompt) :].tolist()
        return generated


def split_answer(sample: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the prompt and the expected answer, as token ids.

    The answer begins with the first token that the loss counts. Where that is every token but the
    first, there is no prompt: then the sample is split in half.
    """
    labels = sample["labels"]
    first = next(index for index, label in enumerate(labels) if label >= 0)
    if first == 1:
        first = len(labels) // 2
    return sample["input_ids"][:first], sample["input_ids"][first:]
