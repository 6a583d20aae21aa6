"""Private parts of trl: its fused loss head and the kernels of it.

read: trl 1.16.0.
"""

from typing import Any

from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from launcher.compat.replacement import Replacement, do_nothing

__all__ = [
    "CUDA_REPLACEMENTS",
    "DataCollatorForLanguageModeling",
    "add_fused_head",
    "takes_fused_head",
]

_OUTPUTS = ("log_probs", "entropy", "is_top1")
"""read: trl/trainer/sft_trainer.py, SFTTrainer.__init__."""
CUDA_REPLACEMENTS = (
    Replacement(trl_utils, "_use_triton", lambda _device: True),
    Replacement(chunked_logprob, "_forward_tile", do_nothing),
    Replacement(chunked_logprob, "_backward_tile", do_nothing),
    Replacement(chunked_logprob, "_addmm_fp32", do_nothing),
)
"""Triton's kernels of the fused loss, which work inside the tile of logits.

read: trl/kernels/chunked_logprob.py.
"""


def add_fused_head(model: Any) -> None:
    """Give the model the head with which trl's ``SFTTrainer`` computes its loss."""
    add_fused_lm_head(model, outputs=_OUTPUTS)


def takes_fused_head(model: Any) -> bool:
    """Return whether trl can give the model its fused head; a model that can, has it then.

    That head is the last hidden state times the output embedding, whatever the class puts between
    the two, such as BERT's transform; so a class with weights of its own there cannot, nor one that
    names a backbone that is not there (Llama 4, Mllama).
    read: trl/trainer/utils.py, add_fused_lm_head.
    """
    if model.base_model is model:
        return False
    passed = (model.base_model, model.get_output_embeddings())
    weights = {id(weight) for part in passed for weight in part.parameters()}
    if any(id(weight) not in weights for weight in model.parameters()):
        return False
    try:
        add_fused_lm_head(model, outputs=_OUTPUTS[:1])
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return False
    return True
