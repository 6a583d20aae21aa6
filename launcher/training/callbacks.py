"""What happens beside the steps of a run: stages, a request to stop, evaluation."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

from launcher.faults.rank_stages import Stages
from launcher.run.run_directory import RunDirectory
from launcher.training.durable_trainer import DurableTrainer
from launcher.training.process_group import collective_limit_s
from planner.plan.schema import Plan


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """The stages that the trainer's own methods do not mark."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._stages.enter("optimizer_step", state.global_step + 1)

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._stages.enter("end", state.global_step)


class StopOnRequest(TrainerCallback):  # type: ignore[misc]
    """Saves and stops behind the same step on every rank once any of them sees the request.

    The ranks agree over a group of their own in host memory, so that no device is waited for.
    """

    def __init__(self, plan: Plan, run: RunDirectory, stages: Stages) -> None:
        self._request, self._stages = run.stop, stages
        self.stopped = False
        self._group: Any = None
        if torch.distributed.is_initialized() and plan.parallel.world_size > 1:
            limit = timedelta(seconds=collective_limit_s(plan))
            self._group = torch.distributed.new_group(backend="gloo", timeout=limit)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stages.enter("step_end", state.global_step)
        if state.global_step >= state.max_steps:
            control.should_save = False  # the result is, next
        elif self._asked():
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def _asked(self) -> bool:
        asked = torch.tensor(int(self._request.exists()))
        if self._group is not None:
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(asked.item())


class Continued(TrainerCallback):  # type: ignore[misc]
    """Puts back what transformers forgets of an interrupted run."""

    def __init__(self, trainer: DurableTrainer, checkpoint: Path) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.restore_unlogged(self._checkpoint)


class Answers(TrainerCallback):  # type: ignore[misc]
    """After each evaluation: its loss, and the model's own answers beside the right ones.

    All ranks generate, because sharded weights are gathered by all; rank 0 writes.
    """

    def __init__(self, plan: Plan, trainer: Any, run: RunDirectory, samples: Any) -> None:
        assert plan.training.evaluation is not None
        self._evaluation = plan.training.evaluation
        self._sharded = plan.parallel.zero_stage == 3
        self._trainer, self._file = trainer, run.evaluations
        number = min(self._evaluation.generated_samples, len(samples))
        self._asked = [split_answer(samples[index]) for index in range(number)]

    def on_evaluate(
        self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        answers = [self._answer(prompt) for prompt, _ in self._asked]
        if not self._trainer.accelerator.is_main_process:
            return
        decode = self._trainer.processing_class.decode
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

    def _answer(self, prompt: Sequence[int]) -> list[int]:
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokens = torch.tensor([prompt], device=trainer.args.device)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            found = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=self._evaluation.max_new_tokens,
                do_sample=False,
                use_cache=True,
                synced_gpus=self._sharded,
            )
        generated: list[int] = found[0, len(prompt) :].tolist()
        return generated


def split_answer(sample: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Tokens before the first one that the loss counts, and from there on.

    Where all is learnt that can be, the second token on, nothing is asked: then it is halves.
    """
    labels = sample["labels"]
    first = next(index for index, label in enumerate(labels) if label >= 0)
    if first == 1:
        first = len(labels) // 2
    return sample["input_ids"][:first], sample["input_ids"][first:]
