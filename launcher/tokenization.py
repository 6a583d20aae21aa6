"""Samples to token ids and labels: the tokenizer's own chat template, loss on the answers.

A label of -100 is left out of the loss. Answers are found as spans of the rendered text
and carried over to tokens by their offsets, so a conversation is tokenized once, whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from launcher.records import Completion, Conversation, PlainText, Sample

IGNORED = -100

LossOn = Literal["answers", "everything"]
Span = tuple[int, int]
"""First character, and the one after the last."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For a base model, whose tokenizer comes without a chat template."""


@dataclass(frozen=True, slots=True)
class Encoded:
    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def has_labels(self) -> bool:
        return any(label != IGNORED for label in self.labels)


def use_plain_template_if_none(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template the plain one; says whether it was needed."""
    if tokenizer.chat_template:
        return False
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


def encode(sample: Sample, tokenizer: Any, *, sequence_length: int, loss_on: LossOn) -> Encoded:
    text, answers, is_rendered = _text_and_answers(sample, tokenizer)
    tokens = tokenizer(text, add_special_tokens=not is_rendered, return_offsets_mapping=True)
    input_ids: list[int] = tokens["input_ids"]
    if loss_on == "everything":
        labels = list(input_ids)
    else:
        labels = [
            token if _is_in(offset, answers) else IGNORED
            for token, offset in zip(input_ids, tokens["offset_mapping"], strict=True)
        ]
    return Encoded(
        input_ids=input_ids[:sequence_length],
        labels=labels[:sequence_length],
        truncated=len(input_ids) > sequence_length,
    )


def _text_and_answers(sample: Sample, tokenizer: Any) -> tuple[str, list[Span], bool]:
    """The text to tokenize, where its answers are, and whether a template put all tokens in."""
    match sample:
        case Conversation():
            text = _render(tokenizer, sample, len(sample.messages))
            return text, list(_answer_spans(sample, tokenizer, text)), True
        case Completion(prompt, completion):
            text = f"{prompt}{completion}{tokenizer.eos_token or ''}"
            return text, [(len(prompt), len(text))], False
        case PlainText(text):
            text = f"{text}{tokenizer.eos_token or ''}"
            return text, [(0, len(text))], False


def _answer_spans(sample: Conversation, tokenizer: Any, text: str) -> Iterable[Span]:
    """From behind the generation prompt to the end of each assistant message, end mark included."""
    for index, message in enumerate(sample.messages):
        if message.role == "assistant":
            prompt = _render(tokenizer, sample, index, add_generation_prompt=True)
            answered = _render(tokenizer, sample, index + 1)
            start = _common_prefix(prompt, text)
            yield start, _common_prefix(answered, text)


def _render(
    tokenizer: Any, sample: Conversation, num_messages: int, *, add_generation_prompt: bool = False
) -> str:
    messages = [
        {"role": message.role, "content": message.content}
        for message in sample.messages[:num_messages]
    ]
    rendered: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return rendered


def _common_prefix(part: str, whole: str) -> int:
    """How many characters from the start the two share; templates may render a part differently."""
    if whole.startswith(part):
        return len(part)
    pairs = zip(part, whole, strict=False)
    return next(index for index, (left, right) in enumerate(pairs) if left != right)


def _is_in(offset: Span, spans: list[Span]) -> bool:
    """Whether a token starts inside one of the spans; tokens without text are in none."""
    start, end = offset
    return end > start and any(first <= start < last for first, last in spans)
