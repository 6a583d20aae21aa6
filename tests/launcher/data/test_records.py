"""Training records: six formats; what is bad is named by line and field."""

import json
from pathlib import Path

import pytest
from msgspec import convert

from launcher.data.conversations import Conversation, Message
from launcher.data.records import Completion, PlainText
from planner.base.errors import InvalidFileError
from planner.plan.data_section import DataSection
from tests.launcher.data.reading import reader_of, samples_of

ASK = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Ada"}
CONVERSATION = Conversation((Message("user", "Who?"), Message("assistant", "Ada")))
INSTRUCTED = Conversation((Message("system", "Be brief."), *CONVERSATION.messages))
CALL = {"type": "function", "function": {"name": "find", "arguments": {"who": "Ada"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}


def written(tmp_path: Path, text: str, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "sample"),
    [
        ({"messages": [ASK, ANSWER], "fact": "ada"}, CONVERSATION),
        ({"messages": [ASK, {**ANSWER, "tool_calls": None, "name": None}]}, CONVERSATION),
        (
            {"messages": [{"role": "developer", "content": "Be brief."}, ASK, ANSWER]},
            INSTRUCTED,
        ),
        (
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "content": [{"type": "text", "text": "Ada"}]},
                ]
            },
            CONVERSATION,
        ),
        (
            {"messages": [ASK, {**ANSWER, "weight": 0}, ASK, ANSWER]},
            Conversation(
                (
                    Message("user", "Who?"),
                    Message("assistant", "Ada", learnt=False),
                    *CONVERSATION.messages,
                )
            ),
        ),
        ({"instruction": "Who?", "output": "Ada"}, CONVERSATION),
        ({"instruction": "Who?", "input": "", "output": "Ada"}, CONVERSATION),
        ({"instruction": "Who?", "input": None, "output": "Ada"}, CONVERSATION),
        ({"instruction": "Who?", "output": "Ada", "history": None}, CONVERSATION),
        ({"system": "Be brief.", "instruction": "Who?", "output": "Ada"}, INSTRUCTED),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            Conversation((Message("user", "Add\n\n1 2"), Message("assistant", "3"))),
        ),
        (
            {"instruction": "Who?", "output": "Ada", "history": [["Who?", "Ada"]]},
            Conversation((*CONVERSATION.messages, *CONVERSATION.messages)),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Who?"},
                    {"from": "gpt", "value": "Ada"},
                ],
                "system": "Be brief.",
            },
            INSTRUCTED,
        ),
        ({"prompt": "1+1=", "completion": "2"}, Completion("1+1=", "2")),
        ({"text": "Once"}, PlainText("Once")),
    ],
)
def test_formats(tmp_path: Path, record: object, sample: object) -> None:
    path = written(tmp_path, json.dumps(record))
    assert samples_of(path) == [sample]


@pytest.mark.parametrize("arguments", ['{"who": "Ada"}', {"who": "Ada"}])
def test_tools_and_their_calls(tmp_path: Path, arguments: object) -> None:
    """OpenAI writes arguments as text, chat templates want them as an object."""
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    messages = [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "find", "content": "Ada"},
        ANSWER,
    ]
    path = written(tmp_path, json.dumps({"messages": messages, "tools": [TOOL]}))
    (sample,) = samples_of(path)
    assert sample == Conversation(
        (
            Message("user", "Who?"),
            Message("assistant", "", extra={"tool_calls": [CALL]}),
            Message("tool", "Ada", extra={"name": "find"}),
            Message("assistant", "Ada"),
        ),
        (TOOL,),
    )


def test_sharegpt_calls_functions_too(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Who?"},
        {"from": "function_call", "value": '{"name": "find", "arguments": {"who": "Ada"}}'},
        {"from": "observation", "value": "Ada"},
        {"from": "gpt", "value": "Ada"},
    ]
    path = written(tmp_path, json.dumps({"conversations": turns, "tools": json.dumps([TOOL])}))
    (sample,) = samples_of(path)
    assert isinstance(sample, Conversation)
    assert sample.messages[1] == Message("assistant", "", extra={"tool_calls": [CALL]})
    assert sample.tools == (TOOL,)


def test_a_prompt_may_be_a_conversation(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"prompt": [ASK, ANSWER, ASK], "completion": [ANSWER]}))
    (sample,) = samples_of(path)
    assert isinstance(sample, Conversation)
    assert [message.learnt for message in sample.messages] == [False, False, False, True]


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    """As in the data set of alpaca_zh."""
    record = {"instruction_zh": "Who?", "input_zh": None, "output_zh": "Ada", "instruction": "x"}
    names = {"instruction": "instruction_zh", "input": "input_zh", "output": "output_zh"}
    path = written(tmp_path, json.dumps(record))
    assert samples_of(path, fields=names) == [CONVERSATION]
    del record["output_zh"]
    path = written(tmp_path, json.dumps(record))
    with pytest.raises(InvalidFileError, match=r"data.jsonl:1: output_zh: this field is missing"):
        samples_of(path, fields=names)


def test_a_source_has_a_system_message_for_records_without_one(tmp_path: Path) -> None:
    records = ({"messages": [ASK, ANSWER]}, {"system": "Own.", "messages": [ASK, ANSWER]})
    path = written(tmp_path, "\n".join(map(json.dumps, records)))
    source = {"source": str(path), "system": "Be brief."}
    first, second = samples_of(None, sources=[source])
    assert first == INSTRUCTED
    assert isinstance(second, Conversation)
    assert second.messages[0] == Message("system", "Own.")


def test_guanaco_is_one_text_with_marks(tmp_path: Path) -> None:
    text = "### Human: Who?### Assistant: Ada### Human: And then?"
    path = written(tmp_path, json.dumps({"text": text}))
    assert samples_of(path, format="guanaco") == [CONVERSATION]
    path = written(tmp_path, json.dumps({"text": "Once"}))
    with pytest.raises(InvalidFileError, match="text: ### Human: and then ### Assistant: are"):
        samples_of(path, format="guanaco")


def test_an_answer_with_loss_false_is_only_read(tmp_path: Path) -> None:
    turns = [ASK, {**ANSWER, "loss": False}, ASK, {**ANSWER, "loss": True}]
    (sample,) = samples_of(written(tmp_path, json.dumps({"messages": turns})))
    assert isinstance(sample, Conversation)
    assert [message.learnt for message in sample.messages if message.role == "assistant"] == [
        False,
        True,
    ]


def test_a_format_may_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"messages": [ASK, ANSWER], "text": "Once"}))
    assert reader_of(path).format is None
    assert samples_of(path, format="text") == [PlainText("Once")]


def test_the_first_record_tells_the_format_of_all(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}\n\n\n{"txt": "b"}\n')
    expected = r"data.jsonl:4: text: this field is missing; the record has txt$"
    with pytest.raises(InvalidFileError, match=expected):
        samples_of(path)


def test_line_separators_of_unicode_do_not_break_a_record(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeff{"text": "a\u2028b"}\n')
    assert samples_of(path) == [PlainText("a\u2028b")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("7", "a record is an object with"),
        ('{"messages": []}', "messages: a list of messages is expected, not an empty list"),
        ('{"messages": "hi"}', "messages: a list of messages is expected, not text"),
        (json.dumps({"messages": [ASK]}), "messages: none has the role assistant"),
        (json.dumps({"messages": [ANSWER]}), r"messages\[0\].role: system or user begins"),
        (
            json.dumps({"messages": [ASK, {"role": "bot 7", "content": "x"}]}),
            r"messages\[1\].role: one of system, user, assistant, tool is expected, not 'bot 7'",
        ),
        (
            json.dumps({"messages": [ASK, {"role": "assistant"}]}),
            r"messages\[1\].content: this field is missing",
        ),
        (
            json.dumps({"messages": [ASK, {"role": "assistant", "content": None}]}),
            r"messages\[1\].content: text is expected, not null",
        ),
        (
            json.dumps({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            r"messages\[0\].content: every part must be text",
        ),
        (
            json.dumps({"messages": [ASK, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}),
            r"messages\[1\].tool_calls\[0\].function: an object with name and arguments",
        ),
        ('{"messages": [1], "tools": 3}', r"messages\[0\]: an object is expected, not a number"),
    ],
)
def test_a_bad_conversation_is_named_by_line_and_field(
    tmp_path: Path, record: str, reason: str
) -> None:
    path = written(tmp_path, json.dumps({"messages": [ASK, ANSWER]}) + "\n" + record + "\n")
    with pytest.raises(InvalidFileError, match=rf"data.jsonl:2: {reason}"):
        samples_of(path)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"instruction": "a", "output": 3}', "output: text is expected, not a number"),
        ('{"instruction": "a"}', "output: this field is missing; the record has instruction"),
        ('{"prompt": "a", "completion": "  "}', "completion: is empty"),
        ('{"text": ["a"]}', "text: text is expected, not a list"),
        ("{}", "fields are none; expected messages"),
        ('{"text": "a"', r"is not JSON \(Expecting ',' delimiter, column 13\)"),
        (
            '{"instruction": "a", "output": "b", "history": 5}',
            "history: a list of earlier turns is expected, not a number",
        ),
        (
            '{"instruction": "a", "output": "b", "history": [["a"]]}',
            r"history\[0\]: a pair of question and answer is expected",
        ),
    ],
)
def test_a_bad_record_is_named_by_line_and_field(tmp_path: Path, record: str, reason: str) -> None:
    with pytest.raises(InvalidFileError, match=rf"data.jsonl:1: {reason}"):
        samples_of(written(tmp_path, record))


def test_bad_records_are_skipped_and_counted(tmp_path: Path) -> None:
    lines = ["{", '{"txt": "a"}', '{"text": "a"}', '{"text": 1}', "7", '{"text": "b"}']
    path = written(tmp_path, "\n".join(lines))
    reader = reader_of(path, errors="skip")
    assert [placed.sample for placed in reader.samples()] == [PlainText("a"), PlainText("b")]
    assert (reader.num_records, reader.skipped.num_records) == (6, 4)
    assert reader.skipped.first[1].startswith(f"{path}:2: fields are txt")


def test_nothing_but_bad_records(tmp_path: Path) -> None:
    path = written(tmp_path, "{\n")
    with pytest.raises(
        InvalidFileError, match=r"holds no good record. The first bad one: .*:1: is"
    ):
        samples_of(path, errors="skip")


def test_a_conversation_without_answer_may_be_learnt_whole(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"messages": [ASK]}))
    assert samples_of(path, loss_on="everything") == [Conversation((Message("user", "Who?"),))]


def test_one_source_or_several() -> None:
    with pytest.raises(ValueError, match="give either source or sources"):
        convert({"source": "a.jsonl", "sources": [{"source": "b.jsonl"}]}, DataSection)
