"""Fetching a config.json from a hub: a real server on this machine stands in for it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from planner.base.errors import InvalidFileError, InvalidRequestError, UserError
from planner.base.strict_yaml import read_spec
from planner.base.text_files import MOST_BYTES
from planner.models import hub_config as module
from planner.models.hub_config import HubName, hub_config, hub_name
from planner.plan.schema import Plan
from tests.planner.builders import SMALL_LLAMA

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "secret" * 3
CONFIG = {**SMALL_LLAMA, "hidden_act": "silu"}
BODIES = {
    "org/tiny": json.dumps(CONFIG).encode(),
    "org/huge": b" " * (MOST_BYTES + 1),
    "org/page": b"<html>",
    "org/list": b"[1]",
    "org/latin": b'{"name": "\xe9"}',
}
REFUSALS = {
    "org/gated": (401, "GatedRepo"),
    "org/forbidden": (403, ""),
    "org/absent": (404, "RepoNotFound"),
    "org/hidden": (401, ""),
    "org/adapter": (404, "EntryNotFound"),
    "org/broken": (503, ""),
}


class Hub(BaseHTTPRequestHandler):
    """What the hub does with ``/ORG/NAME/resolve/REVISION/config.json``."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/api/v1/models/"):
            return self._modelscope()
        if self.path == "/elsewhere":
            return self._send(200, BODIES["org/tiny"], {})
        parts = self.path.strip("/").split("/")
        name, revision = "/".join(parts[:2]), "/".join(parts[3:-1])
        assert (parts[2], parts[-1]) == ("resolve", "config.json")
        if name == "org/slow":
            server.released.wait(30)
        if name == "org/renamed":
            headers = {"Location": f"/org/tiny/resolve/{revision}/config.json"}
            return self._send(307, b"", headers)
        if name == "org/stored":
            return self._send(
                302, b"", {"Location": f"{server.elsewhere}/elsewhere", "X-Repo-Commit": COMMIT}
            )
        if name == "org/tiny" and revision not in ("main", "v1/beta", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if name in REFUSALS:
            status, code = REFUSALS[name]
            return self._send(status, b"", {"X-Error-Code": code} if code else {})
        return self._send(200, BODIES.get(name, b"{}"), {"X-Repo-Commit": COMMIT})

    def _modelscope(self) -> None:
        """What ModelScope does with ``/api/v1/models/ORG/NAME/repo?Revision=...&FilePath=...``."""
        path, _, query = self.path.removeprefix("/api/v1/models/").partition("?")
        name, asked = path.removesuffix("/repo"), parse_qs(query)
        if name in REFUSALS:
            return self._send(REFUSALS[name][0], b"", {})
        if name not in BODIES or asked != {"Revision": ["master"], "FilePath": ["config.json"]}:
            return self._send(404, b'{"Code": 10010205001}', {})
        return self._send(200, BODIES[name], {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


def serve() -> Any:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.released = [], Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.elsewhere = f"http://localhost:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = serve()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def settings(hub: Any, **more: str) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": "/nonexistent", "NO_PROXY": "*", **more}


def fetched(text: str, hub: Any, **more: str) -> module.HubConfig:
    name = hub_name(text)
    assert name is not None
    return hub_config(name, settings(hub, **more))


def close(hub: Any) -> None:
    hub.shutdown()
    hub.server_close()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", HubName("org/name", None)),
        ("Org.1/na_me-2.5", HubName("Org.1/na_me-2.5", None)),
        ("org/name@main", HubName("org/name", "main")),
        ("org/name@refs/pr/1", HubName("org/name", "refs/pr/1")),
        ("https://huggingface.co/org/name", HubName("org/name", None)),
        ("name", None),
        ("./org/name", None),
        ("../name", None),
        ("org/..", None),
        ("org/name/more", None),
        ("/org/name", None),
        ("org/name@", None),
        ("org/name@a/../../b", None),
        ("org/na me", None),
        ("org/name?x", None),
        ("org/" + "n" * 200, None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert hub_name(text) == name


@pytest.mark.parametrize("text", ["org/tiny", "org/tiny@v1/beta", f"org/tiny@{COMMIT}"])
def test_the_revision_is_the_commit_that_the_hub_names(text: str, hub: Any) -> None:
    found = fetched(text, hub)
    assert (found.content, found.revision) == (CONFIG, COMMIT)
    asked = text.partition("@")[2] or "main"
    assert hub.asked == [(f"/org/tiny/resolve/{asked}/config.json", None)]


def test_the_next_plan_needs_no_hub(hub: Any) -> None:
    first = fetched("org/tiny", hub)
    assert fetched("org/tiny", hub) == first
    assert len(hub.asked) == 1
    assert fetched("org/tiny@v1/beta", hub) == first
    assert len(hub.asked) == 2
    close(hub)
    assert fetched("org/tiny", hub) == first
    assert fetched("org/tiny", hub, HF_HUB_OFFLINE="1") == first


def test_a_branch_is_asked_for_again_after_a_day_and_a_commit_never(
    hub: Any, tmp_path: Path
) -> None:
    for text in ("org/tiny", f"org/tiny@{COMMIT}"):
        fetched(text, hub)
    long_ago = time.time() - 2 * module.FRESH_S
    for file in (tmp_path / "cache").rglob("*.json"):
        os.utime(file, (long_ago, long_ago))
    for text in ("org/tiny", f"org/tiny@{COMMIT}"):
        fetched(text, hub)
    assert [path.split("/")[4] for path, _ in hub.asked] == ["main", COMMIT, "main"]
    for file in (tmp_path / "cache").rglob("*.json"):
        os.utime(file, (long_ago, long_ago))
    close(hub)
    assert fetched("org/tiny", hub).content == CONFIG, "an old one is better than none"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"config": 1}', b"\xff"])
def test_a_damaged_cache_is_fetched_anew(content: bytes, hub: Any, tmp_path: Path) -> None:
    first = fetched("org/tiny", hub)
    [file] = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(content)
    assert fetched("org/tiny", hub) == first
    assert len(hub.asked) == 2


def test_a_cache_that_others_may_write_is_refused(hub: Any, tmp_path: Path) -> None:
    fetched("org/tiny", hub)
    (tmp_path / "cache" / "tuneplan").chmod(0o777)
    with pytest.raises(InvalidRequestError, match="may be written by every user"):
        fetched("org/tiny", hub)


def test_the_token_goes_to_the_hub_and_to_no_other_host(hub: Any, tmp_path: Path) -> None:
    fetched("org/renamed", hub, HF_TOKEN=TOKEN)
    assert [given for _, given in hub.asked] == [f"Bearer {TOKEN}"] * 2
    hub.asked.clear()
    found = fetched("org/stored", hub, HF_TOKEN=TOKEN)
    assert hub.asked[1] == ("/elsewhere", None)
    assert found.revision == COMMIT, "read of the redirect"
    hub.asked.clear()
    (tmp_path / "token").write_text(f"{TOKEN}\n", encoding="utf-8")
    fetched("org/tiny", hub, HF_HOME=str(tmp_path))
    assert hub.asked[0][1] == f"Bearer {TOKEN}"
    for file in (tmp_path / "cache").rglob("*.json"):
        assert TOKEN not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/gated", "is gated: accept its terms on https://huggingface.co/org/gated, then set"),
        ("org/forbidden", "is gated: accept its terms"),
        ("org/absent", "no model that the hub shows: Check the name; if it is private, set HF_TOK"),
        ("org/hidden", "if it is private, set HF_TOKEN"),
        ("org/adapter", "has no config.json: name the model in transformers' format"),
        ("org/tiny@v9", "--model org/tiny@v9 has no such revision: name a branch, tag or commit"),
        ("org/broken", "(the hub answered 503): try again, or put its config.json into a folder"),
    ],
)
def test_refusals_say_what_to_do(text: str, message: str, hub: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        fetched(text, hub, HF_TOKEN=TOKEN)
    assert message in str(refused.value)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/huge", "has more than the 16,777,216 bytes that are read"),
        ("org/page", "not JSON"),
        ("org/list", "holds no keys"),
        ("org/latin", "is not UTF-8 text"),
    ],
)
def test_what_is_no_configuration_is_refused_and_not_kept(
    text: str, message: str, hub: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFileError, match=message) as refused:
        fetched(text, hub)
    assert str(refused.value).startswith(f"{text}/config.json:")
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_without_a_hub(hub: Any) -> None:
    close(hub)
    with pytest.raises(InvalidRequestError, match=r"\(Connection refused\): name a mirror with HF"):
        fetched("org/tiny", hub)
    with pytest.raises(InvalidRequestError, match="not in the cache, and HF_HUB_OFFLINE is set: u"):
        fetched("org/tiny", hub, HF_HUB_OFFLINE="1")


def test_a_hub_that_does_not_answer(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    with pytest.raises(InvalidRequestError, match=r"no answer within|timed out|TimeoutError"):
        fetched("org/slow", hub)


@pytest.mark.parametrize("endpoint", ["file:///etc", "huggingface.co", "http://", "http://a b"])
def test_an_endpoint_that_is_none(endpoint: str, hub: Any) -> None:
    with pytest.raises(UserError, match="is not the address of a hub: write it as https://hug"):
        fetched("org/tiny", hub, HF_ENDPOINT=endpoint)


def plan(hub: Any, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planner", "--gpus", "24G", *arguments],
        cwd=folder,
        env={**os.environ, **settings(hub, HF_TOKEN=TOKEN)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plan_names_the_model_and_its_commit_and_needs_no_hub_again(
    hub: Any, tmp_path: Path
) -> None:
    done = plan(hub, tmp_path, "--model", "org/tiny")
    assert done.returncode == 0, done.stderr
    made = read_spec(Plan, tmp_path / "plan.yaml")
    assert (made.model.name, made.model.source) == ("tiny", "org/tiny")
    assert (made.model.revision, made.model.num_params) == (COMMIT, 134_515_008)
    close(hub)
    again = plan(hub, tmp_path, "--model", "org/tiny", "-o", "again.yaml")
    assert again.returncode == 0, again.stderr
    assert read_spec(Plan, tmp_path / "again.yaml") == made
    assert TOKEN not in (tmp_path / "plan.yaml").read_text(encoding="utf-8") + done.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("org/absent", "--model org/absent is no preset, no folder here, and no model that the"),
        ("org/gated", "is gated"),
        ("qwen/qwen2.5_7b", "the key 'model_type' is missing"),
        ("org/page", "not JSON"),
    ],
)
def test_a_mistake_is_one_line(model: str, message: str, hub: Any, tmp_path: Path) -> None:
    done = plan(hub, tmp_path, "--model", model)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert message in line
    assert TOKEN not in line


def test_a_preset_asks_no_hub(hub: Any, tmp_path: Path) -> None:
    assert plan(hub, tmp_path, "--model", "Qwen/Qwen2.5-0.5B").returncode == 0
    assert hub.asked == []
    assert read_spec(Plan, tmp_path / "plan.yaml").model.revision is None


def test_the_nearest_preset_is_named_if_the_hub_has_no_such_model(hub: Any) -> None:
    hint = "Did you mean 'qwen/qwen2.5-7b'?"
    with pytest.raises(InvalidRequestError) as refused:
        hub_config(HubName("org/absent", None), settings(hub), hint)
    assert hint in str(refused.value)


def on_modelscope(text: str, hub: Any, **more: str) -> module.HubConfig:
    name = hub_name(text)
    assert name is not None
    told = {"USE_MODELSCOPE_HUB": "1", "MODELSCOPE_ENDPOINT": hub.url, "NO_PROXY": "*", **more}
    return hub_config(name, told)


def test_modelscope_has_other_addresses_and_another_token(hub: Any) -> None:
    found = on_modelscope("org/tiny", hub, MODELSCOPE_API_TOKEN=TOKEN, HF_TOKEN="other")
    assert found.content == CONFIG
    assert found.revision is None
    [(path, authorization)] = hub.asked
    assert path == "/api/v1/models/org/tiny/repo?Revision=master&FilePath=config.json"
    assert authorization == f"Bearer {TOKEN}"
    assert on_modelscope("org/tiny", hub) == found
    assert len(hub.asked) == 1, "kept"
    assert fetched("org/tiny", hub).revision == COMMIT
    assert len(hub.asked) == 2, "the other hub has models of its own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("org/absent", "no model that the hub shows.*set MODELSCOPE_API_TOKEN to a token"),
        ("org/forbidden", r"accept its terms on https://modelscope\.cn/models/org/forbidden"),
        ("org/tiny@v9", "no model that the hub shows"),
    ],
)
def test_what_modelscope_refuses(text: str, message: str, hub: Any) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        on_modelscope(text, hub)


def test_modelscope_out_of_reach(hub: Any) -> None:
    close(hub)
    with pytest.raises(InvalidRequestError, match="name a mirror with MODELSCOPE_ENDPOINT"):
        on_modelscope("org/tiny", hub)
    with pytest.raises(InvalidRequestError, match="not in the cache, and HF_HUB_OFFLINE is set"):
        on_modelscope("org/tiny", hub, HF_HUB_OFFLINE="1")
