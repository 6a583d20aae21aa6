"""Sequences that several ranks share: each has a part of every sequence's tokens.

The ranks of a group read the same samples; each keeps its part of their tokens, with labels that
were shifted and positions that were counted before. Attention exchanges tokens for heads
(launcher/compat/deepspeed.py, SharedAttention); all else is computed token by token.

DeepSpeed's own data loader passes samples around between ranks, where it cannot begin in the middle
of an epoch; a loss that each rank averages over its own tokens would weigh samples by their number,
where all other strategies weigh tokens.

read: deepspeed/runtime/sequence_parallel/ulysses_sp.py at 0.19.8, UlyssesSPDataLoaderAdapter;
transformers/integrations/deepspeed.py at 5.23.0, deepspeed_sp_compute_loss; trainer.py,
set_initial_training_values.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from launcher.compat.accelerate import read_in_groups, without_repeated
from launcher.compat.deepspeed import SharedAttention, form_sequence_groups, sequence_group
from launcher.compat.trl import DataCollatorForLanguageModeling
from planner.plan.schema import Plan

IGNORED = -100
"""Label of a token that the loss leaves out."""


def share_sequences(plan: Plan) -> None:
    """Form the plan's groups of ranks that share sequences, each of which reads as one; call it
    when ranks have met, and before the model is built."""
    size = plan.parallel.sequence_parallel_size
    if size > 1:
        form_sequence_groups(size)
        read_in_groups(size)


def gradient_divisor(plan: Plan) -> int:
    """Return by what a loss is divided so that each of its gradients counts once: stages 1 and 2
    divide the sum of gradients by the number of groups, stage 3 by that of ranks.

    read: deepspeed/runtime/zero/stage_1_and_2.py at 0.19.8, average_tensor;
    runtime/comm/coalesced_collectives.py, reduce_scatter_coalesced.
    """
    parallel = plan.parallel
    return 1 if parallel.zero_stage == 3 else parallel.sequence_parallel_size


@dataclass
class PartCollator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """A collator of one rank's part of the tokens of every sample.

    Padding comes last, where a causal order hides it from all others, so that the mask only says
    which tokens to count.
    """

    ranks: int = 1
    """Number of ranks that share each sequence."""
    place: int = 0
    """Place of this rank among them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch whose labels are those of the next token, with the tokens' positions."""
        self.pad_to_multiple_of = self.ranks
        batch: dict[str, Any] = super().torch_call(examples)
        labels = torch.nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
        batch |= {"labels": labels, "shift_labels": labels}
        batch["position_ids"] = torch.arange(labels.shape[1])[None]
        return {name: self._part(tensor) for name, tensor in batch.items()}

    def _part(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.chunk(self.ranks, dim=1)[self.place].contiguous()


def part_collator(plan: Plan, tokenizer: Any, rank: int) -> PartCollator:
    """Return the collator of a rank."""
    padding = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    ranks = plan.parallel.sequence_parallel_size
    return PartCollator(
        next(token for token in padding if token is not None),
        ranks=ranks,
        place=rank % ranks,
    )


class SharesSequences:
    """The parts of a trainer that differ where ranks share sequences; stands before one among the
    bases. ``share`` is called before it trains."""

    def share(self, plan: Plan) -> None:
        """Exchange tokens for heads in the model's attention."""
        trainer: Any = self
        trainer.sequence_ranks = plan.parallel.sequence_parallel_size
        self._divisor = gradient_divisor(plan)
        self._attention = SharedAttention(plan.attention)

    def sequences_alone(self) -> AbstractContextManager[None]:
        """Attend to this rank's own sequences inside the block."""
        return self._attention.alone()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Return the loss of a part: in training its share of the loss of all tokens of a step,
        else the mean over the sequences' tokens.

        The loss is multiplied by the number of ranks, for engines that average gradients over them.
        """
        parent: Any = super()
        trainer: Any = self
        inputs.pop("attention_mask", None)
        counted = inputs["shift_labels"] != IGNORED
        loss = parent.compute_loss(model, inputs, *rest, **named)
        if trainer.model.training:
            return loss / self._divisor
        return _mean_over(loss, counted.sum())

    def training_step(self, *inputs: Any, **options: Any) -> Any:
        """Return the loss of a micro-batch as it is logged: its mean over all ranks is that of the
        tokens."""
        parent: Any = super()
        return parent.training_step(*inputs, **options) * self._divisor

    @property
    def gather_function(self) -> Any:
        """The function that gathers an evaluation's losses: of each group once."""
        return self._of_groups

    @gather_function.setter
    def gather_function(self, _given: Any) -> None:
        """Leave it as it is; transformers sets it anew for every evaluation."""

    def _of_groups(self, losses: torch.Tensor, **_: Any) -> Any:
        trainer: Any = self
        gathered = trainer.accelerator.gather(losses)
        by_rank = gathered.view(-1, trainer.sequence_ranks, losses.shape[0])
        return without_repeated(trainer.accelerator, by_rank[:, 0].reshape(-1))


def _mean_over(mean: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of all ranks that share a sequence, of one over a rank's own;
    a rank without any has none."""
    total = torch.where(count > 0, mean * count, torch.zeros_like(mean))
    sums = torch.stack([total.float(), count.float()])
    torch.distributed.all_reduce(sums, group=sequence_group())
    return sums[0] / sums[1].clamp(min=1)
