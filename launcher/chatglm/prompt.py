"""The prompt format of ChatGLM3 and GLM-4.

read: ``build_single_message`` and ``build_chat_input`` of ``tokenization_chatglm.py`` at
THUDM/chatglm3-6b and THUDM/glm-4-9b-chat.
"""

from typing import Any

PREFIX = ("[gMASK]", "<sop>")
"""Tokens with which every text begins."""
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
NEXT_TURNS = ("<|user|>", "<|observation|>")
"""Tokens of roles whose turn follows an answer."""

_MESSAGE = (
    "{{ message.get('metadata', '') + '\\n' }}"
    "{% if message['content'] %}{{ BEFORE + message['content'] }}{% endif %}"
)
_CONVERSATION = (
    "{{ '[gMASK]<sop>' }}"
    "{% for message in messages %}"
    "{% set role = 'observation' if message['role'] == 'tool' else message['role'] %}"
    "{% if role not in ['system', 'user', 'assistant', 'observation'] %}"
    "{{ raise_exception('no role is named ' + role) }}"
    "{% endif %}"
    "{{ '<|' + role + '|>' }}"
    "{% if role == 'assistant' %}"
    "{% generation %}" + _MESSAGE + "{{ 'END' }}{% endgeneration %}"
    "{% else %}" + _MESSAGE + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def roles_template(before_text: str, end: str) -> str:
    """Return the chat template: role, metadata line and text; answers end with ``end``."""
    return _CONVERSATION.replace("BEFORE", repr(before_text)).replace("END", end)


def add_prefix(tokenizer: Any) -> None:
    """Make a tokenizer put the prefix before plain text, as ChatGLM's own tokenizers do."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*PREFIX, "$A"],
        pair=[*PREFIX, "$A", "$B:1"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in PREFIX],
    )
