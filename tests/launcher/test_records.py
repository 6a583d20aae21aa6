"""Training records: four forms, and an error with file, line and field for everything else."""

import json
from pathlib import Path

import pytest

from launcher.records import Completion, Conversation, Message, PlainText, data_file, read_samples
from planner.errors import InvalidFileError, InvalidRequestError

ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Ada"}
CONVERSATION = Conversation((Message("user", "Who?"), Message("assistant", "Ada")))


def written(tmp_path: Path, text: str, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "sample"),
    [
        ({"messages": [ASK, ANSWER], "fact": "ada"}, CONVERSATION),
        ({"instruction": "Who?", "output": "Ada"}, CONVERSATION),
        ({"instruction": "Who?", "input": "", "output": "Ada"}, CONVERSATION),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            Conversation((Message("user", "Add\n\n1 2"), Message("assistant", "3"))),
        ),
        ({"prompt": "1+1=", "completion": "2"}, Completion("1+1=", "2")),
        ({"text": "Once"}, PlainText("Once")),
    ],
)
def test_forms(tmp_path: Path, record: object, sample: object) -> None:
    path = written(tmp_path, json.dumps(record))
    assert read_samples(path, answers_only=True) == [sample]


def test_blank_lines_are_skipped_and_still_counted(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}\n\n\n{"txt": "b"}\n')
    with pytest.raises(InvalidFileError, match=r"data.jsonl:4: keys are txt; expected messages"):
        read_samples(path, answers_only=True)


def test_line_separators_of_unicode_do_not_break_a_record(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a\u2028b"}\n')
    assert read_samples(path, answers_only=True) == [PlainText("a\u2028b")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("7", "a record is an object with"),
        ('{"messages": []}', "messages: a list of messages is expected, not a list"),
        ('{"messages": "hi"}', "messages: a list of messages is expected, not text"),
        (json.dumps({"messages": [ASK]}), "messages: none has the role assistant"),
        (json.dumps({"messages": [ANSWER]}), r"messages\[0\].role: system or user begins"),
        (
            json.dumps({"messages": [ASK, {"role": "bot", "content": "x"}]}),
            r"messages\[1\].role: one of system, user, assistant, tool is expected, not 'bot'",
        ),
        (
            json.dumps({"messages": [ASK, {"role": "assistant"}]}),
            r"messages\[1\].content: this field is missing",
        ),
        (
            json.dumps({"messages": [ASK, {"role": "assistant", "content": None}]}),
            r"messages\[1\].content: text is expected, not nothing",
        ),
        ('{"instruction": "a", "output": 3}', "output: text is expected, not a number"),
        ('{"instruction": "a"}', "output: this field is missing"),
        ('{"prompt": "a", "completion": "  "}', "completion: is empty"),
        ('{"text": ["a"]}', "text: text is expected, not a list"),
        ("{}", "keys are none; expected messages"),
        ('{"text": "a"', r"is not JSON \(Expecting ',' delimiter, column 13\)"),
    ],
)
def test_a_bad_record_is_named_by_line_and_field(tmp_path: Path, record: str, reason: str) -> None:
    path = written(tmp_path, '{"text": "fine"}\n' + record + "\n")
    with pytest.raises(InvalidFileError, match=rf"data.jsonl:2: {reason}"):
        read_samples(path, answers_only=True)


def test_a_conversation_without_answer_may_be_learnt_whole(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"messages": [ASK]}))
    assert read_samples(path, answers_only=False) == [Conversation((Message("user", "Who?"),))]


def test_an_array(tmp_path: Path) -> None:
    path = written(tmp_path, '[{"text": "a"},\n {"text": "b"}]', "data.json")
    assert read_samples(path, answers_only=True) == [PlainText("a"), PlainText("b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"text": "a"},\n{"text": 1}\n]', "data.json:3: text: text is expected"),
        ('[{"text": "a"}\n{"text": "b"}]', r"data.json:2: is not JSON \(expecting ',' or '\]'\)"),
        ('[{"text": "a"},\n{"text"}]', "data.json:2: is not JSON"),
        ('{"text": "a"}', "data.json:1: a JSON array of records is expected"),
        ("[]", "data.json: holds no records"),
        ("", "data.json:1: a JSON array"),
    ],
)
def test_a_bad_array(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidFileError, match=message):
        read_samples(written(tmp_path, text, "data.json"), answers_only=True)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"data.jsonl: holds no records\. Each one is"):
        read_samples(written(tmp_path, "\n"), answers_only=True)


def test_no_source_says_what_to_do() -> None:
    with pytest.raises(InvalidRequestError, match=r"names no data\. Say which with --data"):
        data_file(None)


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.jsonl", "does not exist"), ("folder", "is a folder")]
)
def test_a_missing_file(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidRequestError, match=reason):
        data_file(str(tmp_path / name))


def test_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r".jsonl or .json is expected"):
        data_file(str(written(tmp_path, "a", "data.csv")))
