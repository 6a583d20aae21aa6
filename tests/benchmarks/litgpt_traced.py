"""A micro-batch of LitGPT's real model on fake tensors, as its loop runs it."""

from collections.abc import Collection

import torch
from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
from litgpt.utils import chunked_cross_entropy

from launcher.compat.torch import fake_tensors
from launcher.rehearsal.operator_rules import CUDA_RULES
from launcher.rehearsal.patched_functions import replaced_functions
from launcher.rehearsal.tracer import Tracer


def traced_peak(
    name: str, targets: Collection[str], *, layers: int, samples: int, length: int
) -> int:
    """Bytes beside the weights at the largest moment of a first micro-batch with LoRA."""
    tracer = Tracer(CUDA_RULES)
    with replaced_functions(on_cuda=True), fake_tensors(), tracer:
        model = _model(name, targets, layers)
        before = tracer.live_bytes - _table_bytes(model)
        model.max_seq_length = length
        with tracer.phase("micro-batch"):
            tokens = torch.zeros(samples, length, dtype=torch.int64)
            targets_ = torch.zeros_like(tokens)
            logits = [chunk.float() for chunk in model(tokens, lm_head_chunk_size=128)]
            logits[-1] = logits[-1][..., :-1, :]
            chunked_cross_entropy(logits, targets_[..., 1:]).backward()
    return sum(tracer.phases["micro-batch"].values()) - before


def _model(name: str, targets: Collection[str], layers: int) -> GPT:
    config = Config.from_name(
        name,
        n_layer=layers,
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        lora_query="q" in targets,
        lora_key="k" in targets,
        lora_value="v" in targets,
        lora_projection="proj" in targets,
        lora_mlp="mlp" in targets,
        lora_head="head" in targets,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = GPT(config)
    finally:
        torch.set_default_dtype(torch.float32)
    mark_only_lora_as_trainable(model)
    return model.train()


def _table_bytes(model: GPT) -> int:
    """Of the rotary tables for the whole context, which are made anew for the run's length."""
    return int(model.cos.untyped_storage().nbytes() + model.sin.untyped_storage().nbytes())
