"""Several documents in one row that do not see each other, and the proof before the first step.

trl's own packing flattens a micro-batch into one row for flash attention's variable lengths
(trl 1.16.0 trainer/sft_trainer.py, ``padding_free``); under sdpa its mask would grow with the
square of all rows together. Here every row keeps its own positions, which begin again at each
document, and there is no mask: transformers then makes one that is block by block
(masking_utils.py, ``find_packed_sequence_indices``), as long as nothing is cached.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from launcher.compat.trl import DataCollatorForLanguageModeling
from planner.base.errors import UserError

DOCUMENT = 8
"""Tokens of each of the two documents of the proof."""
ROUNDINGS = 10
"""Of a hidden state in a layer: two norms, two sums, the products and what is between them."""
DEVIATIONS = 5
"""Fewer than one logit in a million is outside of so many standard deviations."""


@dataclass
class PackedCollator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """Rows of packed documents; padding behind them is documents of one token each."""

    return_position_ids: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        del batch["attention_mask"]
        batch["labels"][batch["position_ids"] == 0] = -100
        return batch


class DocumentsApart(TrainerCallback):  # type: ignore[misc]
    """Stops before the first step of a model whose documents see each other."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        difference, noise = influence(model)
        if difference > noise:
            raise UserError(
                "documents packed into one sequence see each other in this architecture (logits "
                f"moved by {difference:.2g} of their spread). Set batch.packing to false"
            )


@torch.no_grad()
def influence(model: Any) -> tuple[float, float]:
    """How far another first document moves the logits of the second, over their spread; and how
    far kernels that sum in another order may move them, as those of mixtures do."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    first, other, second = torch.randint(vocabulary, (3, DOCUMENT), generator=generator).to(device)
    positions = torch.arange(DOCUMENT, device=device).repeat(2)[None]
    seen = [
        model(
            input_ids=torch.cat([before, second])[None], position_ids=positions, use_cache=False
        ).logits[:, DOCUMENT:]
        for before in (first, other)
    ]
    model.train(was_training)
    moved = (seen[0] - seen[1]).float().abs().max() / seen[0].float().std()
    return moved.item(), rounding_noise(model, torch.finfo(seen[0].dtype).eps)


def rounding_noise(model: Any, precision: float) -> float:
    """Relative. Rounding errors are spread evenly over a step of the precision and add up as a
    random walk does (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 2.8)."""
    steps = ROUNDINGS * model.config.get_text_config().num_hidden_layers
    return DEVIATIONS * precision * float((steps / 12) ** 0.5)
