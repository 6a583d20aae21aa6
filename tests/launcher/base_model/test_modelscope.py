"""A model of ModelScope, fetched by its own package from a server on this machine."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec import structs

pytest.importorskip("modelscope", reason="pip install modelscope")

from launcher.base_model import find_checkpoint as module
from launcher.base_model.find_checkpoint import ModelNotFoundError, local_checkpoint
from launcher.base_model.tokenizer_files import find_tokenizer
from tests.launcher.plans import plan


class ModelScope(BaseHTTPRequestHandler):
    """The answers of ModelScope that a download of ``org/tiny`` asks for."""

    def do_GET(self) -> None:
        folder: Path = self.server.folder  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        name, asked = url.path.removeprefix("/api/v1/models/"), parse_qs(url.query)
        if name == "org/tiny/repo":
            return self._send(200, (folder / asked["FilePath"][0]).read_bytes())
        if name == "org/tiny/repo/files":
            files = [
                {
                    "Path": path.name,
                    "Name": path.name,
                    "Type": "blob",
                    "Size": path.stat().st_size,
                    "Sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for path in folder.iterdir()
            ]
            data = {"Files": files, "TotalCount": len(files)}
            return self._send(200, _answer(200, data))
        known = not name.startswith("org/")
        return self._send(200 if known else 404, _answer(200 if known else 404, {}))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


def _answer(code: int, data: dict[str, Any]) -> bytes:
    return json.dumps({"Code": code, "Success": code == 200, "Data": data}).encode()


@pytest.fixture(scope="module")
def hub(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadingHTTPServer]:
    """One server for all tests: the package keeps the address that it has read first."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), ModelScope)
    server.folder = tiny_checkpoint
    Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("USE_MODELSCOPE_HUB", "1")
        patched.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        patched.setenv("MODELSCOPE_CACHE", str(tmp_path_factory.mktemp("modelscope")))
        patched.setenv("NO_PROXY", "*")
        yield server
    server.shutdown()
    server.server_close()


def test_a_tokenizer_comes_without_the_weights(
    hub: ThreadingHTTPServer, tiny_checkpoint: Path
) -> None:
    place = find_tokenizer(structs.replace(plan().model, source="org/tiny"))
    whole = find_tokenizer(structs.replace(plan().model, source=str(tiny_checkpoint)))
    assert place.identity == whole.identity
    assert not (place.folder / "model.safetensors").exists()


def test_a_model_is_downloaded(hub: ThreadingHTTPServer, tiny_checkpoint: Path) -> None:
    """A commit of the other hub, as presets name them, is none of this one."""
    tiny = structs.replace(plan().model, source="org/tiny", revision="0" * 40)
    screen = StringIO()
    found = local_checkpoint(tiny, screen)
    assert "looking for org/tiny on ModelScope" in screen.getvalue()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (found.folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_a_name_that_modelscope_does_not_have(hub: ThreadingHTTPServer) -> None:
    absent = structs.replace(plan().model, source="org/absent")
    with pytest.raises(ModelNotFoundError, match="ModelScope does not give it") as caught:
        local_checkpoint(absent, StringIO())
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="ModelScope does not give it"):
        find_tokenizer(absent)


def test_without_its_package(hub: ThreadingHTTPServer) -> None:
    tiny = structs.replace(plan().model, source="org/tiny")
    with (
        patch.object(module, "find_spec", lambda name: None if name == "modelscope" else 1),
        pytest.raises(ModelNotFoundError, match=r"not installed: pip install modelscope$"),
    ):
        local_checkpoint(tiny, StringIO())
