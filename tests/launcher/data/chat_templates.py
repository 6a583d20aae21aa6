"""Chat templates to learn by, each with tokenizers of two kinds that know its control tokens."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import trl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from launcher.chatglm.prompt import roles_template
from launcher.data.chat_template import PLAIN_TEMPLATE
from launcher.data.conversations import Conversation, Message

SHIPPED = Path(trl.__file__).parent / "chat_templates"
BAR = "\uff5c"
"""Bar in DeepSeek's control tokens."""
CONTROL = re.compile(
    rf"<\|[A-Za-z_]+\|>|<{BAR}[^{BAR}<]+{BAR}>|<(?:start|end)_of_\w+>|\[/?[A-Z_]+\]|</?s>"
    r"|<\|(?:turn|channel|tool_call|tool_response|tool)>|<(?:turn|channel|tool_call|tool_response)\|>"
    r"|<\|im_(?:start|end|sep)\|>|<\|(?:start|end)(?:of)?_?(?:text|header_id|role|prompt)?\|>"
)
"""Control tokens as templates write them."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A chat template, and how the answers of its models read."""

    template: str
    stops: tuple[str, ...]
    """Tokens at which the generation settings stop; the first is the tokenizer's end token."""
    opening: str = ""
    """Text that a model says before an answer."""
    closing: str | None = None
    """Text behind an answer, or None for the first stop token."""
    thought: str | None = None
    """Text of a thought and what leads to the answer, or None if it has no place of its own."""
    tags_are_cut: bool = False
    """Whether the template knows thoughts in think tags and no others."""
    call: str | None = None
    """Text of the call of the tests, with its end, or None if calls cannot be said."""
    has_parts: bool = False
    no_system: bool = False
    thinks_if_asked: bool = False
    opening_after_tool: str | None = None

    @property
    def refused(self) -> dict[str, str]:
        """Reasons for the cases that the template cannot say."""
        reasons = {}
        if self.call is None:
            reasons["tools"] = "leaves out|refuses it|ends this answer"
        if self.thought is None and not self.tags_are_cut:
            reasons["thoughts in a field"] = "has no place for a thought"
        if self.no_system:
            reasons["system"] = reasons["system and turns"] = "refuses it"
        return reasons

    def expected(self, message: Message, *, after_tool: bool) -> set[str]:
        """Return the texts by which an answer is learnt, with and without its blank edges."""
        closing = self.stops[0] if self.closing is None else self.closing
        if message.calls:
            assert self.call is not None
            return {self.call}
        opening, content = self.opening, message.content
        if after_tool and self.opening_after_tool is not None:
            opening = self.opening_after_tool
        thought = message.reasoning or (message.thought or "").strip()
        if thought and self.thought is not None:
            opening, content = self.thought.format(thought), message.visible.lstrip("\n")
        edges = (content, content.lstrip(), content.rstrip(), content.strip(), content.lstrip("\n"))
        collapsed = re.sub(r"^\s+", " ", content)
        return {opening + said + closing for said in (*edges, collapsed.rstrip())}

    def prompt(self, asked: Conversation, answer: Message, tokenizer: Any) -> list[int]:
        """Return the tokens that inference starts from."""
        switch = {}
        if self.thinks_if_asked and (answer.reasoning or answer.thought):
            switch = {"enable_thinking": True}
        encoded = tokenizer.apply_chat_template(
            [self.as_dict(message) for message in asked.messages],
            tools=list(asked.tools) or None,
            add_generation_prompt=True,
            **switch,
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def as_dict(self, message: Message) -> dict[str, Any]:
        """Return a message as the template wants it."""
        content, reasoning = message.content, message.reasoning
        if self.thought is not None and message.thought is not None and not self.tags_are_cut:
            content, reasoning = message.visible.lstrip("\n"), message.thought.strip("\n")
        said = [{"type": "text", "text": content}] if self.has_parts else content
        thoughts = dict.fromkeys(("reasoning_content", "thinking"), reasoning) if reasoning else {}
        return {"role": message.role, "content": said, **thoughts, **message.extra}


def shipped(name: str, *stops: str, **more: Any) -> Family:
    """Return a family whose template trl ships."""
    template = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
    return Family(template=template, stops=stops, **more)


def all_shipped() -> set[str]:
    """Return the names of trl's templates."""
    names = {path.stem for path in SHIPPED.glob("*.jinja")}
    return {name for name in names if not name.endswith("_training")}


IM_END = ("<|im_end|>", "<|endoftext|>")
THOUGHT = "<think>\n{}\n</think>\n\n"
REST_OF_THOUGHT = "{}\n</think>\n\n"
END_OF_EMPTY_THOUGHT = "\n</think>\n\n"
HERMES_CALL = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
)
XML_CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
    "</tool_call>"
)
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
LFM_CALL = "<|tool_call_start|>[weather(city='Oslo')]<|tool_call_end|><|im_end|>"
GEMMA_CALL = '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>'
GEMMA_THOUGHT = "<|channel>thought\n{}\n<channel|>"
ATEM_CALL = (
    ' to=weather<|message|><atem:function_calls>\n<atem:invoke name="weather">\n'
    '<atem:parameter name="city">Oslo</atem:parameter>\n</atem:invoke>\n'
    "</atem:function_calls><|eot|>"
)
DEEPSEEK_END = f"<{BAR}end\u2581of\u2581sentence{BAR}>"
LLAMA_3 = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
GEMMA_4 = ("<eos>", "<turn|>", "<|tool_response>")


def _deepseek(name: str) -> Family:
    return shipped(
        name,
        DEEPSEEK_END,
        opening=END_OF_EMPTY_THOUGHT,
        thought=REST_OF_THOUGHT,
        tags_are_cut=True,
    )


def _gemma4(name: str, **more: Any) -> Family:
    call = GEMMA_CALL + "<|tool_response>"
    return shipped(name, *GEMMA_4, **{"closing": "<turn|>", "call": call, **more})


def _lfm(name: str, **more: Any) -> Family:
    return shipped(name, "<|im_end|>", **{"call": LFM_CALL, **more})


def _nemotron(name: str, thought: str) -> Family:
    return shipped(
        name,
        "<|im_end|>",
        opening="</think>",
        thought=thought,
        call=f"</think>\n{XML_CALL}\n<|im_end|>",
    )


def _qwen_xml(name: str, **more: Any) -> Family:
    defaults = {
        "opening": END_OF_EMPTY_THOUGHT,
        "call": f"{END_OF_EMPTY_THOUGHT}{XML_CALL}<|im_end|>",
    }
    return shipped(name, *IM_END, thought=REST_OF_THOUGHT, **{**defaults, **more})


SHIPPED_FAMILIES = {
    "cohere": shipped("cohere", "<|END_OF_TURN_TOKEN|>"),
    "cohere2": shipped(
        "cohere2", "<|END_OF_TURN_TOKEN|>", closing="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    ),
    "deepseek_r1_distill": _deepseek("deepseek_r1_distill"),
    "deepseekv3": _deepseek("deepseekv3"),
    "diffusion_gemma": _gemma4(
        "diffusion_gemma", thought=GEMMA_THOUGHT, opening_after_tool="<|turn>model\n"
    ),
    "gemma": shipped("gemma", "<eos>", "<end_of_turn>", closing="<end_of_turn>", no_system=True),
    "gemma3": shipped("gemma3", "<eos>", "<end_of_turn>", closing="<end_of_turn>"),
    "gemma4": _gemma4("gemma4"),
    "gemma4_v2": _gemma4("gemma4_v2", call=GEMMA_CALL + "<turn|>"),
    "gemma4_v3": _gemma4("gemma4_v3"),
    "gemma4_v4": _gemma4("gemma4_v4"),
    "gemma4_v5": _gemma4("gemma4_v5", thought=GEMMA_THOUGHT),
    "glm4moe": shipped(
        "glm4moe",
        "<|endoftext|>",
        "<|user|>",
        "<|observation|>",
        opening="\n<think></think>\n",
        closing="<|user|>",
        thought="\n<think>{}</think>\n",
        call="\n<think></think>\n<tool_call>weather\n<arg_key>city</arg_key>\n"
        "<arg_value>Oslo</arg_value>\n</tool_call><|observation|>",
    ),
    "gptoss": shipped(
        "gptoss",
        "<|return|>",
        "<|endoftext|>",
        "<|call|>",
        opening="<|channel|>final<|message|>",
        thought="<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
        "<|channel|>final<|message|>",
        call=' to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
    ),
    "idefics3": shipped(
        "idefics3",
        "<|end_of_text|>",
        "<end_of_utterance>",
        opening=" ",
        closing="<end_of_utterance>",
        has_parts=True,
    ),
    "lfm2": _lfm("lfm2", call=None),
    "lfm2_v2": _lfm("lfm2_v2"),
    "lfm2_2_5": _lfm("lfm2_2_5", thought="<think>{}</think>"),
    "lfm2_2_5_v2": _lfm("lfm2_2_5_v2", thought="<think>{}</think>"),
    "lfm2_2_5_vl": _lfm("lfm2_2_5_vl", thought="<think>{}</think>"),
    "llama3": shipped("llama3", *LLAMA_3, closing="<|eot_id|>"),
    "llama3_1": shipped("llama3_1", *LLAMA_3, closing="<|eot_id|>", call=LLAMA_CALL),
    "llama3_2": shipped("llama3_2", *LLAMA_3, closing="<|eot_id|>", call=LLAMA_CALL),
    "llava_next": shipped("llava_next", "</s>", opening=" ", has_parts=True),
    "muse_glimmer": shipped(
        "muse_glimmer",
        "<|eot|>",
        opening=" to=user<|message|>",
        thought=" to=self<|message|>{}<|eom|><|start|>assistant to=user<|message|>",
        call=ATEM_CALL,
    ),
    "nemotron_3_nano": _nemotron("nemotron_3_nano", "{}\n</think>\n"),
    "nemotron_3_super": _nemotron("nemotron_3_super", "{}\n</think>\n"),
    "nemotron_3_ultra": _nemotron("nemotron_3_ultra", "{}</think>"),
    "nemotron_3_5_lightning": _nemotron("nemotron_3_5_lightning", "{}</think>"),
    "phi3": shipped("phi3", "<|endoftext|>", "<|assistant|>", "<|end|>", closing="<|end|>"),
    "phi3_5": shipped("phi3_5", "<|endoftext|>", "<|assistant|>", "<|end|>", closing="<|end|>"),
    "qwen2_5": shipped("qwen2_5", *IM_END, call=HERMES_CALL),
    "qwen2_5_vl": shipped("qwen2_5_vl", *IM_END),
    "qwen3": shipped(
        "qwen3",
        *IM_END,
        opening=THOUGHT.format(""),
        thought=THOUGHT,
        call=THOUGHT.format("") + HERMES_CALL,
    ),
    "qwen3_instruct_2507": shipped("qwen3_instruct_2507", *IM_END, call=HERMES_CALL),
    "qwen3_vl": shipped("qwen3_vl", *IM_END, call=HERMES_CALL),
    "qwen3_5_nothink": _qwen_xml(
        "qwen3_5_nothink", opening="", call=f"{XML_CALL}<|im_end|>", thinks_if_asked=True
    ),
    "qwen3_5_think": _qwen_xml("qwen3_5_think"),
    "qwen3_6": _qwen_xml("qwen3_6"),
    "qwen3_8": _qwen_xml("qwen3_8"),
    "smolvlm": shipped("smolvlm", "<end_of_utterance>", opening=" ", has_parts=True),
}

EACH = "{% for m in messages %}"
ALTERNATES = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must "
    "alternate') }}{% endif %}"
)
CHATML = (
    EACH + "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _mistral(blank: str) -> str:
    """Return the template of v0.3 (with a blank) or Nemo: system in the last question alone."""
    return (
        "{% if messages[0].role == 'system' %}{% set system_message = messages[0].content %}"
        "{% set said = messages[1:] %}{% else %}{% set said = messages %}{% endif %}"
        "{% set asked = said | selectattr('role', 'equalto', 'user') | list %}{{ bos_token }}"
        "{% for m in said %}{% if m.role == 'user' %}"
        "{% if tools and m == asked[-1] %}"
        "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{% if loop.last and system_message is defined %}"
        "{{ '[INST]BLANK' + system_message + '\\n\\n' + m.content + '[/INST]' }}"
        "{% else %}{{ '[INST]BLANK' + m.content + '[/INST]' }}{% endif %}"
        "{% elif m.tool_calls is defined %}{{ '[TOOL_CALLS] [' }}"
        "{% for call in m.tool_calls %}{% if call.id is not defined or call.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}"
        "{% endif %}{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}"
        "{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
        "{% elif m.role == 'assistant' %}{{ 'BLANK' + m.content | trim + eos_token }}"
        "{% elif m.role == 'tool' %}"
        '{{ \'[TOOL_RESULTS] {"content": \' + m.content + \', "call_id": "\' + m.tool_call_id'
        " + '\"}[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"
    ).replace("BLANK", blank)


MISTRAL_CALL = (
    '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcdefghi"}]</s>'
)
WRITTEN_FAMILIES = {
    "mistral v0.1": Family(
        template="{{ bos_token }}"
        + EACH
        + ALTERNATES
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        stops=("</s>",),
        no_system=True,
    ),
    "mistral v0.3": Family(template=_mistral(" "), stops=("</s>",), opening=" ", call=MISTRAL_CALL),
    "mistral nemo": Family(template=_mistral(""), stops=("</s>",), call=MISTRAL_CALL),
    "llama 2": Family(
        template="{% if messages[0].role == 'system' %}{% set said = messages[1:] %}"
        "{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
        "{% else %}{% set said = messages %}{% set system = '' %}{% endif %}"
        "{% for m in said %}"
        + ALTERNATES
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + "
        "m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        stops=("</s>",),
        opening=" ",
        closing=" </s>",
    ),
    "zephyr": Family(
        template=EACH
        + "{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}"
        + "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
        + "{% endfor %}",
        stops=("</s>",),
    ),
    "chatml": Family(template=CHATML, stops=IM_END),
    "chatml of a base model": Family(
        template=CHATML, stops=("<|endoftext|>",), closing="<|im_end|>"
    ),
    "deepseek llm": Family(
        template="{{ bos_token }}" + EACH + "{% if m.role == 'user' %}"
        "{{ 'User: ' + m.content + '\\n\\n' }}{% elif m.role == 'assistant' %}"
        "{{ 'Assistant: ' + m.content + eos_token }}{% elif m.role == 'system' %}"
        "{{ m.content + '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        stops=(DEEPSEEK_END,),
        opening=" ",
    ),
    "deepseek r1 as first published": Family(
        template="{{ bos_token }}"
        + EACH
        + "{% if m.role == 'user' %}"
        "{{ '<BARUserBAR>' + m.content }}{% elif m.role == 'system' %}{{ m.content }}"
        "{% else %}{{ '<BARAssistantBAR>' + m.content.split('</think>')[-1] + eos_token }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<BARAssistantBAR>' }}{% endif %}".replace("BAR", BAR),
        stops=(DEEPSEEK_END,),
    ),
    "granite 3": Family(
        template=EACH + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content }}"
        "{{ '<|end_of_text|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        stops=("<|end_of_text|>",),
    ),
    "phi 4": Family(
        template=EACH
        + "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        stops=("<|endoftext|>", "<|im_end|>"),
        closing="<|im_end|>",
    ),
    "phi 4 mini": Family(
        template=EACH + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
        stops=("<|endoftext|>", "<|end|>"),
        closing="<|end|>",
    ),
    "olmo 2": Family(
        template="{{ bos_token }}" + EACH + "{{ '<|' + m.role + '|>\\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% if m.role != 'assistant' or not loop.last %}{{ '\\n' }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
        "{% endfor %}",
        stops=("<|endoftext|>",),
    ),
    "glm 4 0414": Family(
        template="[gMASK]<sop>" + EACH + "{{ '<|' + m.role + '|>\\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
        stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
        opening="\n",
        closing="<|user|>",
    ),
    "internlm 2": Family(
        template="{{ bos_token }}" + CHATML, stops=("</s>", "<|im_end|>"), closing="<|im_end|>"
    ),
    "smollm 3": Family(
        template="{% set mode = '/no_think' if enable_thinking is defined and not enable_thinking "
        "else '/think' %}{{ '<|im_start|>system\n' }}"
        "{% if messages[0].role == 'system' %}{% set system_message = messages[0].content %}"
        "{% if '/no_think' in system_message %}{% set mode = '/no_think' %}{% endif %}{% endif %}"
        "{% if '/system_override' in system_message %}"
        "{{ system_message.replace('/system_override', '').rstrip() + '<|im_end|>\n' }}{% else %}"
        "{{ '## Metadata\n\nToday Date: ' ~ strftime_now('%d %B %Y') }}"
        "{{ '\nReasoning Mode: ' ~ mode }}"
        "{{ '\n\n## Custom Instructions\n\n' + (system_message or 'You are SmolLM.') + '\n\n' }}"
        "{{ '### Tools\n\nNone\n\n<|im_end|>\n' }}{% endif %}"
        + EACH
        + "{% set empty = '' if mode == '/think' else '<think>\n\n</think>\n' %}"
        "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
        "{% elif m.role == 'assistant' %}"
        "{{ '<|im_start|>assistant\n' + empty + m.content.lstrip('\n') + '<|im_end|>\n' }}"
        "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{{ '' if mode == '/think' else '<think>\n\n</think>\n' }}{% endif %}",
        stops=("<|im_end|>",),
    ),
    "minicpm": Family(
        template=EACH + "{% if m.role == 'user' %}{{ '<用户>' + m.content.strip() + '<AI>' }}"
        "{% else %}{{ m.content.strip() }}{% endif %}{% endfor %}",
        stops=("</s>",),
    ),
    "baichuan 2": Family(
        template=EACH + "{% if m.role == 'user' %}{{ '<reserved_106>' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ '<reserved_107>' + m.content }}"
        "{% elif m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<reserved_107>' }}{% endif %}",
        stops=("</s>",),
    ),
    "chatglm3": Family(template=roles_template("", "</s>"), stops=("</s>",), opening="\n"),
    "no prompt for an answer": Family(
        template=CHATML[: CHATML.index("{% if add_gen")],
        stops=IM_END,
        opening="<|im_start|>assistant\n",
    ),
    "no end marks": Family(
        template=CHATML.replace("<|im_end|>", ""), stops=("</s>",), closing="</s>"
    ),
    "plain": Family(template="{{ bos_token }}" + PLAIN_TEMPLATE, stops=("</s>",)),
}
"""Families of the presets whose templates trl does not ship, and some that are hard.

Written from the published ones, the longer ones without their instructions: InternLM2-Chat's and
MiniCPM-2B's are quoted by users of lagent and in llama.cpp's tests, that of SmolLM3 in gorilla
(bfcl_eval). Baichuan2-Chat has none: this renders what its own code builds.
"""

FAMILIES = {**SHIPPED_FAMILIES, **WRITTEN_FAMILIES}
KINDS = ("bytes", "pieces")


def spelled(tokenizer: Any, kind: str, tokens: list[int], *, before: list[int]) -> str:
    """Return what tokens spell, one by one; a blank that a control token brings is not said."""
    special = set(tokenizer.all_special_tokens) | set(tokenizer.added_tokens_encoder)
    bytes_of = {char: byte for byte, char in bytes_to_unicode().items()}
    spelled, last = b"", tokenizer.convert_ids_to_tokens(before[-1]) if before else None
    for token in tokenizer.convert_ids_to_tokens(tokens):
        if token in special:
            spelled += token.encode()
        elif kind == "bytes":
            spelled += bytes(bytes_of[char] for char in token)
        elif re.fullmatch(r"<0x..>", token):
            spelled += bytes([int(token[3:5], 16)])
        else:
            spelled += token.removeprefix("▁" if last in special else "").replace("▁", " ").encode()
        last = token
    return spelled.decode()


@cache
def tokenizer_of(of: Family, kind: str) -> Any:
    """Return a tokenizer with the family's template, of the kind ``bytes`` or ``pieces``."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level() if kind == "bytes" else _sentencepiece_like(),
        eos_token=of.stops[0],
        bos_token="<s>",
    )
    control = dict.fromkeys(["<s>", *of.stops, *CONTROL.findall(of.template)])
    tokenizer.add_tokens(list(control), special_tokens=True)
    tokenizer.chat_template = of.template
    return tokenizer


def stop_ids(of: Family, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(of.stops))
    return ids


def _byte_level() -> Tokenizer:
    """Return bytes with merges that go over blanks and line breaks, as GPT-2's do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "A"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), (":", "Ċ"), ("Ġ", "g"), ("Ġg", "o")]
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_like() -> Tokenizer:
    """Return Llama 2's kind: a blank before every text, bytes for what is in no piece."""
    letters = "▁" + "".join(map(chr, range(33, 127))) + "éî"
    merges = [("▁", "A"), ("▁", "g"), ("▁g", "o"), ("o", "n"), ("▁", "▁"), (":", "▁")]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(tokens)},
            merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
