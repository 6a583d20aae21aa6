"""How ChatGLM3 and GLM-4 put a conversation together.

read: ``build_single_message`` and ``build_chat_input`` of ``tokenization_chatglm.py`` at
THUDM/chatglm3-6b and THUDM/glm-4-9b-chat.
"""

from typing import Any

PREFIX = ("[gMASK]", "<sop>")
"""What every text begins with."""
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
NEXT_TURNS = ("<|user|>", "<|observation|>")

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
    """A role, a line with what the message is about, its text; answers end with ``end``."""
    return _CONVERSATION.replace("BEFORE", repr(before_text)).replace("END", end)


def add_prefix(tokenizer: Any) -> None:
    """To text that is no prompt, as ChatGLM's own tokenizers do."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*PREFIX, "$A"],
        pair=[*PREFIX, "$A", "$B:1"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in PREFIX],
    )
