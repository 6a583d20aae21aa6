"""The rebuilt tokenizer reads text as SentencePiece does, and prompts as ChatGLM does."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentencepiece")

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from launcher.chatglm.tokenizer import rebuilt_tokenizer
from launcher.data.conversations import Conversation, Message
from launcher.data.record_fields import UnlearnableError
from launcher.data.tokenization import IGNORED, SampleTokenizer
from planner.base.errors import InvalidFileError
from tests.launcher.chatglm.original import TEXTS, config, of_real_size, train_sentencepiece

NUM_STRINGS = 6_000
SCRIPTS = {
    "latin": [chr(code) for code in range(0x20, 0x7F)],
    "spaces": [" ", "  ", "\n", "\t", "\r\n", "\u3000", "\xa0", "\u200b", "\u2581", "   "],
    "chinese": [chr(code) for code in range(0x4E00, 0x4E00 + 2000, 7)]
    + list("你好世界语言模型今天"),
    "marks": list("\uff0c\u3002\uff01\uff1f\u300a\u300b\u201c\u201d\u2026\u2014"),
    "emoji": ["\U0001f600", "\U0001f469\u200d\U0001f680", "\U0001f1e8\U0001f1f3", "\u2764\ufe0f"],
    "rare": [
        "\u0301",
        "\ufffd",
        "\U00010348",
        "\u05d0",
        "\u0627",
        "\u0e01",
        "\ufb01",
        "\xbd",
        "\x7f",
    ],
    "words": " ".join(TEXTS).split(),
    "names": ["<|user|>", "</s>", "<s>", "<unk>", "[gMASK]", "<sop>", "sop", "eop", "<0x41>"],
    "runs": ["=" * 7, "-" * 12, "a" * 9, "  " * 5, "\n" * 4, "000111", "...", "\u54c8" * 5],
}


@pytest.fixture(scope="module")
def trained() -> bytes:
    return train_sentencepiece()


@pytest.fixture(scope="module")
def processor(trained: bytes) -> Any:
    return SentencePieceProcessor(model_proto=trained)


@pytest.fixture(scope="module")
def tokenizer(trained: bytes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saved, and loaded again by plain transformers."""
    source, saved = (tmp_path_factory.mktemp("tokenizers") / name for name in ("source", "saved"))
    rebuilt_in(source, trained).save_pretrained(saved)
    return AutoTokenizer.from_pretrained(saved, trust_remote_code=False)


def rebuilt_in(folder: Path, trained: bytes, **changes: Any) -> Any:
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(trained)
    (folder / "config.json").write_text(json.dumps(config(640, **changes)), encoding="utf-8")
    return rebuilt_tokenizer(folder)


def mixed_strings() -> list[str]:
    draw = random.Random(0)
    kinds = list(SCRIPTS.values())
    strings = ["", *TEXTS, *(piece for kind in kinds for piece in kind)]
    while len(strings) < NUM_STRINGS:
        chosen = draw.choices(kinds, k=draw.randint(1, 3))
        length = draw.randint(1, 24)
        strings.append("".join(draw.choice(draw.choice(chosen)) for _ in range(length)))
    return strings


def test_ids_are_sentencepieces_own(tokenizer: Any, processor: Any) -> None:
    strings = mixed_strings()
    ours = tokenizer(strings, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    theirs = processor.encode(strings)
    different = [
        text for text, one, other in zip(strings, ours, theirs, strict=True) if one != other
    ]
    assert different == []
    used = {index for ids in theirs for index in ids}
    assert sum(processor.is_byte(index) for index in used) > 100


def test_text_comes_back(tokenizer: Any) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.decode(ids) == text


def test_special_ids_follow_sentencepieces(tokenizer: Any, processor: Any) -> None:
    """64789 to 64797 where SentencePiece has 64,789 pieces."""
    names = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    names += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    first = processor.vocab_size()
    assert tokenizer.convert_tokens_to_ids(names) == list(range(first, first + 9))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (
        0,
        2,
        "left",
    )
    assert tokenizer.encode("hi") == [first + 1, first + 3, *processor.encode("hi")]


def test_the_ids_of_chatglm3(trained: bytes, tmp_path: Path) -> None:
    """A vocabulary of its size, with the pieces of "hi" where it has them."""
    tokenizer = rebuilt_in(tmp_path / "real", of_real_size(trained))
    ids = chat_ids(tokenizer, {"role": "user", "content": "hi"}, prompt=True)
    assert ids == [64790, 64792, 64795, 30910, 13, 14980, 64796]
    assert len(tokenizer) == 64_798


def test_words_hold_no_special_token(tokenizer: Any, processor: Any) -> None:
    for text in ("soprano", "sop", "eop", "gMASK", "a system user | assistant", "< |user|>"):
        assert tokenizer.encode(text, add_special_tokens=False) == processor.encode(text)


def chat_ids(tokenizer: Any, *messages: dict[str, str], prompt: bool = False) -> list[int]:
    encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=prompt)
    ids: list[int] = encoded["input_ids"]
    return ids


def test_a_prompt_has_the_ids_of_build_chat_input(tokenizer: Any, processor: Any) -> None:
    """Each message: its role, the line about it, its text; each text with a space of its own."""
    first = processor.vocab_size()
    roles = {
        "system": first + 5,
        "user": first + 6,
        "assistant": first + 7,
        "observation": first + 8,
    }
    conversation = [
        ("system", "Be brief."),
        ("user", "hi\n\n  你好 "),
        ("assistant", " spaced"),
        ("observation", "3"),
        ("user", ""),
    ]
    expected = [first + 1, first + 3]
    for role, content in conversation:
        expected += [roles[role], *processor.encode("\n"), *processor.encode(content)]
        expected += [2] if role == "assistant" else []
    messages = [{"role": role, "content": content} for role, content in conversation]
    assert chat_ids(tokenizer, *messages, prompt=True) == [*expected, roles["assistant"]]


def test_an_answer_carries_loss_from_its_line_to_its_end(tokenizer: Any, processor: Any) -> None:
    turns = (
        Message("user", "hi"),
        Message("assistant", "你好"),
        Message("user", "who"),
        Message("assistant", "a model"),
    )
    samples = SampleTokenizer(tokenizer, stops=[2], loss_on="answers")
    (texts,) = samples.encode(samples.render(Conversation(turns)))
    assert not isinstance(texts, UnlearnableError)
    (sample,) = texts
    answers = [
        [*processor.encode("\n"), *processor.encode(text), 2] for text in ("你好", "a model")
    ]
    assert [label for label in sample.labels if label != IGNORED] == answers[0] + answers[1]

    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    marked = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    assert marked["input_ids"] == sample.input_ids
    assert marked["assistant_masks"] == [int(label != IGNORED) for label in sample.labels]


def test_chatglm2_has_rounds_and_no_roles(trained: bytes, processor: Any, tmp_path: Path) -> None:
    tokenizer = rebuilt_in(tmp_path / "two", trained, _name_or_path="THUDM/chatglm2-6b")
    assert len(tokenizer) == processor.vocab_size() + 5
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "你好"},
        {"role": "user", "content": "who"},
    ]
    first = processor.vocab_size()
    start = processor.encode("[Round 1]\n\n问\uff1ahi\n\n答\uff1a")
    ids = chat_ids(tokenizer, *messages[:1], prompt=True)
    assert ids == [first + 1, first + 3, *start]
    longer = tokenizer.apply_chat_template(messages, tokenize=False)
    assert longer.endswith("答\uff1a你好</s>\n\n[Round 2]\n\n问\uff1awho\n\n答\uff1a")


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    """One that rewrites text before it is read, as most SentencePiece models do."""
    import io

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=written,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    with pytest.raises(
        InvalidFileError, match=r"is not a ChatGLM tokenizer: '.*' is encoded differently"
    ):
        rebuilt_in(tmp_path / "nfkc", written.getvalue())
    with pytest.raises(InvalidFileError, match="is not a SentencePiece model"):
        rebuilt_in(tmp_path / "text", b"version https://git-lfs")


def test_a_role_that_does_not_exist(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="no role is named critic"):
        chat_ids(tokenizer, {"role": "critic", "content": "x"})
