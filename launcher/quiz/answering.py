"""Answers of a base model and of the model trained from it, both loaded from disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from launcher.chat.trained_model import load, stops_of, trained
from launcher.data.chat_template import use_plain_template_if_none
from launcher.data.generated_text import whole_characters
from planner.plan.schema import Plan

MAX_NEW_TOKENS = 16
BATCH_SIZE = 32


def answers_before_and_after(
    plan: Plan, *, base: Path, result: Path, new_stops: Sequence[int], questions: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the answers of the base model and of the trained one, in the questions' order.

    ``base`` is the checkpoint that training began with, ``result`` the adapter or model it saved.
    Both models stop where the base model's generation settings do, and at ``new_stops``, the ids of
    the marks with which the training ended answers.
    """
    tokenizer = AutoTokenizer.from_pretrained(result, padding_side="left")
    use_plain_template_if_none(tokenizer)
    stops = stops_of(base, new_stops, tokenizer)
    model = load(plan, base)
    before = answers(model, tokenizer, questions, stops)
    model = trained(plan, result, model)
    return before, answers(model, tokenizer, questions, stops)


def answers(
    model: Any, tokenizer: Any, questions: Sequence[str], stops: Sequence[int]
) -> list[str]:
    """Return the likeliest answer to each question, asked as a conversation's first message.

    An answer ends at a token whose id is in ``stops``, or after ``MAX_NEW_TOKENS``.
    """
    return [
        answer
        for start in range(0, len(questions), BATCH_SIZE)
        for answer in _batch(model, tokenizer, questions[start : start + BATCH_SIZE], stops)
    ]


@torch.inference_mode()
def _batch(
    model: Any, tokenizer: Any, questions: Sequence[str], stops: Sequence[int]
) -> Iterator[str]:
    conversations = [[{"role": "user", "content": question}] for question in questions]
    prompts = tokenizer.apply_chat_template(
        conversations, tokenize=False, add_generation_prompt=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    generated = model.generate(
        **batch.to(model.device),
        generation_config=GenerationConfig(
            do_sample=False,
            use_cache=True,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=list(stops),
            pad_token_id=tokenizer.pad_token_id,
        ),
    )
    new_tokens = generated[:, batch["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return iter([whole_characters(text).strip() for text in texts])
