"""Comparison of a merged model's logits with those of the base and its adapter."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.data.chat_template import use_plain_template_if_none
from launcher.training.model_building import attention_of, load_base, with_trained_adapter
from planner.plan.schema import Plan

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three uses of a paper clip, and say which of them is the most common one.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two models' logits agree, over every position of every prompt."""

    num_prompts: int
    num_tokens: int
    max_difference: float
    """Largest absolute difference of two logits."""
    relative_difference: float
    """Root mean square of the differences, over that of the logits."""
    largest_logit: float
    """Largest absolute logit before merging."""
    same_first_choice: int
    """Number of positions whose likeliest next token is the same."""


def compare(plan: Plan, *, base: Path, adapter: Path, merged: Path) -> Agreement:
    """Compare a base with its adapter and the merged model, one after the other in memory."""
    device = torch.device(
        "cuda" if plan.hardware.device == "cuda" and torch.cuda.is_available() else "cpu"
    )
    prompts = encoded_prompts(adapter)
    before = logits(with_trained_adapter(load_base(plan, base, device), adapter), prompts)
    gc.collect()
    model = AutoModelForCausalLM.from_pretrained(
        merged, dtype="auto", attn_implementation=attention_of(plan), use_safetensors=True
    )
    return agreement(before, logits(model.to(device), prompts))


def encoded_prompts(folder: Path) -> list[torch.Tensor]:
    """Return the token ids of every prompt, of shape (1, length), by the folder's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    use_plain_template_if_none(tokenizer)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in PROMPTS
    ]
    return [
        tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        for text in texts
    ]


@torch.inference_mode()
def logits(model: Any, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of every prompt, of shape (length, vocabulary), in fp32 on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    return [model(prompt.to(device)).logits[0].float().cpu() for prompt in prompts]


def agreement(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> Agreement:
    """Return how far two models' logits of the same prompts agree."""
    old, new = torch.cat(list(before)), torch.cat(list(after))
    difference = new - old
    return Agreement(
        num_prompts=len(before),
        num_tokens=len(old),
        max_difference=float(difference.abs().max()),
        relative_difference=float(difference.square().mean().sqrt() / old.square().mean().sqrt()),
        largest_logit=float(old.abs().max()),
        same_first_choice=int((old.argmax(-1) == new.argmax(-1)).sum()),
    )
