"""Sentences in other languages: every one has a translation, with the same placeholders."""

import json
import re
import string
from collections.abc import Iterator
from io import StringIO
from typing import get_args

import pytest

from planner.base.console import PrintableConsole
from planner.base.phrases import (
    Joined,
    Language,
    Phrase,
    Reason,
    as_data,
    from_data,
    language_of,
    speak,
    spoken,
)
from planner.base.preset_files import ROOT, translations
from planner.base.strict_yaml import parse_yaml
from tests.planner.base.marked_phrases import computed_templates, marked, plain_texts

OTHERS = [language for language in get_args(Language) if language != "en"]


@pytest.fixture
def chinese() -> Iterator[None]:
    speak(translations("zh"))
    yield
    speak({})


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_is_translated(language: Language) -> None:
    table = translations(language)
    missing = {place: template for place, template in marked() if template not in table}
    assert not {place: each for place, each in missing.items() if _has_words(each)}


COUNTED = re.compile(r"\{(\w+)\[[^|\]]*\|(\w+)[^\]]*\]\}")
NEVER_ONE = {
    *("length", "sequence_length", "longest", "num_tokens", "rate", "speed", "num_rows"),
    *("nodes", "num_nodes", "ranks", "devices", "num_gpus", "num_layers", "every", "name"),
    *("network", "driver_version"),
}
"""Placeholders that stand for no number, or for one that is always larger where its word stands."""
SEVERAL = {
    *("{count} such cards", "are {count:,} GPUs", "{count} runs here"),
    *("{samples:,} samples, and at most", "of every {number} layers"),
    "one host with {count} cards",
}
"""Parts of sentences that are only said of more than one."""


@pytest.mark.parametrize("text", ["1 records", "0 record"])
def test_a_word_has_the_form_of_its_number(text: str) -> None:
    number = int(text.split()[0])
    said = Phrase("{number:,} {number[record|records]}", number=number)
    assert said != text
    assert from_data(json.loads(json.dumps(as_data(said)))) == said


def test_every_counted_word_has_the_form_of_its_number() -> None:
    """What is counted somewhere is counted in the same way everywhere."""
    templates = {template for _, template in marked()}
    words = {found[2] for each in templates for found in COUNTED.finditer(each)} - {"are", "lose"}
    counted = re.compile(rf"\{{(\w+)(?::,)?\}} (?:[a-z-]+ )?(?:{'|'.join(words)})\b")
    wrong = {
        each
        for each in templates
        for found in counted.finditer(each)
        if found[1] not in NEVER_ONE and not any(part in each for part in SEVERAL)
    }
    assert not wrong


def _has_words(template: str) -> bool:
    """Return whether there is something to translate beside placeholders and marks."""
    return any(map(str.isalpha, "".join(text for text, *_ in string.Formatter().parse(template))))


def test_every_text_for_people_is_a_phrase() -> None:
    assert not list(plain_texts())


def test_every_template_is_written_out() -> None:
    assert not list(computed_templates())


@pytest.mark.parametrize("language", OTHERS)
def test_no_translation_is_left_of_a_sentence_that_is_gone(language: Language) -> None:
    templates = {template for _, template in marked()}
    tensors = _section(language, "tensors")  # see report/explain/test_tensor_names.py
    assert {*translations(language)} - tensors <= templates


def _section(language: Language, title: str) -> set[str]:
    path = ROOT / "languages" / f"{language}.yaml"
    return {*parse_yaml(path.read_text(encoding="utf-8"), path)[title]}


@pytest.mark.parametrize("language", OTHERS)
def test_translations_have_the_same_placeholders(language: Language) -> None:
    table = translations(language)
    differ = [each for each in table if '"' not in each and _fields(each) != _fields(table[each])]
    assert not differ


def _fields(template: str) -> list[tuple[str | None, str | None, str | None]]:
    """Placeholders with their formats; a text that says one twice may say it once, and needs no
    form of a word for one."""
    found = {(n, spec, conv) for _, n, spec, conv in string.Formatter().parse(template) if n}
    return sorted(field for field in found if "[" not in field[0])


def test_a_phrase_is_english_until_it_is_spoken(chinese: None) -> None:
    phrase = Phrase("rank {rank}: {message}", rank=3, message=Phrase("out of memory"))
    assert phrase == "rank 3: out of memory"
    assert spoken(phrase) == "rank 3\uff1a\u663e\u5b58\u4e0d\u8db3"


def test_a_spinner_is_in_the_language_of_the_process(chinese: None) -> None:
    screen = StringIO()
    with PrintableConsole(file=screen, force_terminal=True).status(Phrase("checking this machine")):
        pass
    assert spoken(Phrase("checking this machine")) in screen.getvalue()


def test_joined_phrases_and_reasons_are_spoken(chinese: None) -> None:
    both = Phrase("Host memory") + Joined(", ", ["8", Phrase("Disk")])
    assert both == "Host memory8, Disk"
    assert spoken(both) == "\u5185\u58548\uff0c\u78c1\u76d8".replace("\u5854", "\u5b58")
    reason = Reason("memory_short", Phrase("does not fit: {gib} GiB short", gib="1.00"))
    assert (reason.code, reason) == ("memory_short", "does not fit: 1.00 GiB short")
    assert "1.00 GiB" in spoken(reason)
    assert spoken(reason) != reason


def test_a_phrase_comes_back_from_another_process(chinese: None) -> None:
    said = Joined("; ", [Phrase("{number:,} records; ", number=1234), Phrase("Disk"), "x"])
    back = from_data(json.loads(json.dumps(as_data(said))))
    assert back == said
    assert spoken(back) == spoken(said) != said
    assert from_data(as_data(Reason("code", Phrase("Disk")))) == "Disk"
    assert from_data("plain") == "plain"


def test_other_text_is_spoken_as_it_is(chinese: None) -> None:
    assert spoken("Host memory") == "Host memory"


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8", "LC_ALL": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "fr:zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "TUNEPLAN_LANGUAGE": "en"}, "en"),
    ],
)
def test_the_environment_names_the_language(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language
