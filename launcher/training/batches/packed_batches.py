"""Rows of several documents that do not attend to each other, and a check before the first step.

trl's own packing flattens a micro-batch into one row for flash attention's variable lengths; under
sdpa its mask would grow with the square of all rows together. Here every row keeps its own
positions, which begin anew with every document, and there is no mask: transformers then makes one
that is block by block, as long as nothing is cached.

read: trl/trainer/sft_trainer.py at 1.16.0, ``padding_free``; transformers/masking_utils.py at
5.23.0, ``find_packed_sequence_indices``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from launcher.compat.trl import DataCollatorForLanguageModeling
from planner.base.errors import UserError

DOCUMENT = 8
"""Tokens of each of the two documents of the check."""
ROUNDINGS = 10
"""Roundings of a hidden state per layer: two norms, two sums, the products and those between."""
DEVIATIONS = 5
"""Standard deviations that fewer than one logit in a million is outside of."""


def packed_collator(tokenizer: Any) -> "PackedCollator":
    """Return the collator for a tokenizer, also for one without a token to pad with.

    Padding is masked and seen by no document, so any token will do (Llama 3 and Mistral have no
    token of their own for it).
    """
    padding = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return PackedCollator(next(token for token in padding if token is not None))


@dataclass
class PackedCollator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """A collator of packed documents; padding after them is documents of one token each."""

    return_position_ids: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch with positions and without a mask; first tokens have no label."""
        batch: dict[str, Any] = super().torch_call(examples)
        del batch["attention_mask"]
        batch["labels"][batch["position_ids"] == 0] = -100
        return batch


class CheckDocumentsApart(TrainerCallback):  # type: ignore[misc]
    """A callback that stops before the first step of a model that attends across documents."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Raise ``UserError`` if one document moves the logits of the next."""
        difference, noise = influence(model)
        if difference > noise:
            raise UserError(
                "this architecture attends across the documents packed into one sequence (logits "
                f"moved by {difference:.2g} of their spread). Set batch.packing to false"
            )


@torch.no_grad()
def influence(model: Any) -> tuple[float, float]:
    """Return how far another first document moves the logits of the second, and how far it may.

    Both are relative to the spread of the logits. Kernels that sum in another order, as those of
    mixtures do, move them a little.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    one, another, second = torch.randint(vocabulary, (3, DOCUMENT), generator=generator).to(device)
    positions = torch.arange(DOCUMENT, device=device).repeat(2)[None]
    logits = [
        model(
            input_ids=torch.cat([first, second])[None], position_ids=positions, use_cache=False
        ).logits[:, DOCUMENT:]
        for first in (one, another)
    ]
    model.train(was_training)
    moved = (logits[0] - logits[1]).float().abs().max() / logits[0].float().std()
    return moved.item(), rounding_noise(model, torch.finfo(logits[0].dtype).eps)


def rounding_noise(model: Any, precision: float) -> float:
    """Return the relative rounding error of the logits, at ``DEVIATIONS`` standard deviations.

    Rounding errors are spread evenly over a step of the precision and add up as a random walk does
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 2.8).
    """
    steps = ROUNDINGS * model.config.get_text_config().num_hidden_layers
    return DEVIATIONS * precision * float((steps / 12) ** 0.5)
