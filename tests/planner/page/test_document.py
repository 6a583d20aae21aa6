"""The file of a page: what its policy allows, and texts that stay texts."""

import json
import re
from base64 import b64encode
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from planner.page.document import is_untouched, json_text, page
from planner.page.elements import element, joined

HOSTILE = "</script><script>alert(1)</script><!--<b>\u2028&amp;\"'"


def test_every_text_is_escaped_but_what_is_markup() -> None:
    made = element("p", HOSTILE, element("b", "<i>"), title=HOSTILE)
    assert re.findall(r"<[^>]*>", made.replace(f'title="{made.split(chr(34))[1]}"', "")) == [
        "<p >",
        "<b>",
        "</b>",
        "</p>",
    ]
    assert "\u2028" not in made


@given(st.text())
def test_data_in_a_script_end_no_script_and_are_read_back(text: str) -> None:
    made = json_text({"name": text})
    assert made.isascii()
    assert not set("<>&") & set(made)
    assert json.loads(made) == {"name": text}


def test_the_policy_names_the_one_script_and_the_one_style() -> None:
    made = page(HOSTILE, joined(HOSTILE), data={"name": HOSTILE}, scripts=[])
    policy = re.search(r'content="(default-src [^"]*)"', made)
    [style] = re.findall(r"<style>(.*?)</style>", made, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    assert policy is not None
    for text, kind in ((style, "style-src"), (script, "script-src")):
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none';")
    assert not re.search(r"https?:|src=|url\(|@import|<link|style=|\son\w+=", made)


def test_an_edit_is_noticed() -> None:
    made = page("a", joined("text"), data={}, scripts=[])
    assert is_untouched(made)
    assert not is_untouched(made.replace("text", "mine"))
    assert not is_untouched(made + "\n")
