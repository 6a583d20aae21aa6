"""The ``config.json`` of a model on the hub: fetched alone, bounded, and kept in the user's cache.

A plan needs a few kilobytes of a checkpoint of many gigabytes. They are fetched with the standard
library, so that ``plan`` behaves alike with and without the training packages, under the names that
huggingface_hub gives to its settings (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME). With
USE_MODELSCOPE_HUB=1 the hub is ModelScope, under the names of its package's settings.

read: huggingface_hub 1.x, constants.py, utils/_http.py (hf_raise_for_status) and utils/_auth.py;
modelscope_hub 0.5.1, config.py and _legacy_api.py.
"""

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from planner.base.errors import InvalidFileError, InvalidRequestError, one_line
from planner.base.output_file import digest, write_whole
from planner.base.phrases import Joined, Phrase
from planner.base.strict_json import parse_json
from planner.base.text_files import MOST_BYTES, read_text
from planner.base.user_folders import cache_directory, expanded

ANSWER_S = 8.0
"""Seconds for the whole answer; without a limit a look-up of the host's name can take minutes."""
FRESH_S = 24 * 3600.0
"""Seconds for which the newest state of a branch is taken to be what the cache holds."""
ENDPOINT = "https://huggingface.co"
PAGE = "https://huggingface.co"
"""Where a person accepts the terms of a gated model; mirrors have no such page."""
MODELSCOPE = "https://modelscope.cn"
USE_MODELSCOPE = "USE_MODELSCOPE_HUB"

_NAME = re.compile(
    r"(?:https?://(?:huggingface\.co|hf\.co)/)?"
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,199}))?/?",
    re.ASCII,
)
_BY_HAND = Phrase("put its config.json into a folder and name that")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"
_TRUE = {"1", "ON", "YES", "TRUE"}


class HubName(Struct, frozen=True):
    """A model on the hub as ``ORG/NAME`` or ``ORG/NAME@REVISION`` names it."""

    id: str
    revision: str | None

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


class HubConfig(Struct, frozen=True):
    """A ``config.json`` and the revision that it is of."""

    content: dict[str, Any]
    revision: str | None
    """The commit that the hub named, else what was asked for."""


class Hub(Struct, frozen=True, kw_only=True):
    """A hub, as the environment names it."""

    endpoint: str
    file_path: str
    """Path of a model's config.json below the endpoint."""
    usual_revision: str
    page: str
    """Address below which a person finds the models' pages."""
    endpoint_variable: str
    token_variable: str
    token: str | None

    def url(self, name: HubName) -> str:
        """Return the address of a model's config.json."""
        revision = name.revision or self.usual_revision
        return self.endpoint + self.file_path.format(id=name.id, revision=revision)


def uses_modelscope(environ: Mapping[str, str]) -> bool:
    """Return whether models come from ModelScope."""
    return environ.get(USE_MODELSCOPE, "").upper() in _TRUE


def hub_of(environ: Mapping[str, str]) -> Hub:
    """Return the hub that models come from."""
    if uses_modelscope(environ):
        return Hub(
            endpoint=_endpoint(environ, "MODELSCOPE_ENDPOINT", MODELSCOPE),
            file_path="/api/v1/models/{id}/repo?Revision={revision}&FilePath=config.json",
            usual_revision="master",
            page=f"{MODELSCOPE}/models",
            endpoint_variable="MODELSCOPE_ENDPOINT",
            token_variable="MODELSCOPE_API_TOKEN",
            token=_as_token(environ.get("MODELSCOPE_API_TOKEN", "")),
        )
    return Hub(
        endpoint=_endpoint(environ, "HF_ENDPOINT", ENDPOINT),
        file_path="/{id}/resolve/{revision}/config.json",
        usual_revision="main",
        page=PAGE,
        endpoint_variable="HF_ENDPOINT",
        token_variable="HF_TOKEN",
        token=_token(environ),
    )


class _Answer(Struct, frozen=True):
    """What the hub said: a status of HTTP and its headers, or why there was no answer."""

    status: int = 0
    body: bytes = b""
    commit: str | None = None
    code: str = ""
    failure: str = ""


def hub_name(text: str) -> HubName | None:
    """Return the model that a text names on the hub, or None for any other text.

    >>> hub_name("org/name@v1.0"), hub_name("./org/name")
    (HubName(id='org/name', revision='v1.0'), None)
    """
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or match["id"].endswith(".git"):
        return None
    return HubName(id=match["id"], revision=match["revision"])


def hub_config(name: HubName, environ: Mapping[str, str], hint: str = "") -> HubConfig:
    """Return a model's ``config.json`` from the cache if that is fresh, else from the hub.

    Without an answer the cache serves however old it is. ``hint`` ends the message about a model
    that the hub does not have. Raises InvalidRequestError with what to do; InvalidFileError for a
    configuration that cannot be read.
    """
    hub = hub_of(environ)
    file = _cache_file(name, hub)
    kept = _kept(file)
    if kept is not None and (name.is_pinned or _age_s(file) < FRESH_S):
        return kept
    if _is_offline(environ):
        if kept is not None:
            return kept
        raise _refused(
            name,
            Phrase("is not in the cache, and HF_HUB_OFFLINE is set"),
            Phrase("unset it, or {by_hand}", by_hand=_BY_HAND),
        )
    answer = _ask(hub.url(name), hub.token)
    if answer.status == 0 and kept is not None:
        return kept
    if answer.status != 200:
        raise _refused(name, *_why(name, answer, hub, hint))
    content = _parsed(answer.body, name)
    found = HubConfig(content=content, revision=answer.commit or name.revision)
    with suppress(OSError):  # a cache that cannot be written: the next plan asks again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"revision": found.revision, "config": found.content}))
    return found


def _refused(name: HubName, why: str, remedy: str) -> InvalidRequestError:
    revision = f"@{name.revision}" if name.revision is not None else ""
    return InvalidRequestError(
        Phrase(
            "--model {id}{revision} {why}: {remedy}",
            id=name.id,
            revision=revision,
            why=why,
            remedy=remedy,
        )
    )


def _why(name: HubName, answer: _Answer, hub: Hub, hint: str) -> tuple[str, str]:
    """Return why the hub gave no configuration, and what to do."""
    if answer.status == 0:
        return (
            Phrase("cannot be fetched ({failure})", failure=answer.failure),
            Phrase(
                "name a mirror with {variable}, or {by_hand}",
                variable=hub.endpoint_variable,
                by_hand=_BY_HAND,
            ),
        )
    if answer.code == "GatedRepo" or answer.status == 403:
        return (
            Phrase("is gated"),
            Phrase(
                "accept its terms on {page}/{id}, then set {variable} to a token of that account",
                page=hub.page,
                id=name.id,
                variable=hub.token_variable,
            ),
        )
    if answer.code == "RevisionNotFound":
        return Phrase("has no such revision"), Phrase("name a branch, tag or commit of its page")
    if answer.code == "EntryNotFound":
        return Phrase("has no config.json"), Phrase(
            "name the model in transformers' format that it is made from"
        )
    if answer.status in (401, 404):
        private = Phrase(
            "if it is private, set {variable} to a token that may read it",
            variable=hub.token_variable,
        )
        return (
            Phrase("is no preset, no folder here, and no model that the hub shows"),
            Joined(" ", filter(None, [hint, Phrase("Check the name; {private}", private=private)])),
        )
    return Phrase("cannot be fetched (the hub answered {status})", status=answer.status), Phrase(
        "try again, or {by_hand}", by_hand=_BY_HAND
    )


def _parsed(body: bytes, name: HubName) -> dict[str, Any]:
    place = Path(f"{name.id}/config.json")
    if len(body) > MOST_BYTES:
        raise InvalidFileError(
            place,
            None,
            Phrase("has more than the {most:,} bytes that are read", most=MOST_BYTES),
        )
    try:
        content = parse_json(body.decode(), place)
    except UnicodeDecodeError as error:
        raise InvalidFileError(place, None, Phrase("is not UTF-8 text")) from error
    if not isinstance(content, dict):
        raise InvalidFileError(
            place, None, Phrase("holds no keys: it is not a model's configuration")
        )
    return content


def _cache_file(name: HubName, hub: Hub) -> Path:
    """Return the place of a configuration: hubs may have different models of one name."""
    parts = (hub.endpoint, name.id, name.revision or hub.usual_revision)
    stem = "--".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
    return cache_directory() / "hub" / f"{stem}-{digest(repr(parts))}.json"


def _kept(file: Path) -> HubConfig | None:
    """Return what the cache holds; None for a file that is not there or not whole."""
    try:
        kept = parse_json(read_text(file), file)
    except InvalidFileError:
        return None
    if not isinstance(kept, dict) or not isinstance(kept.get("config"), dict):
        return None
    revision = kept.get("revision")
    return HubConfig(kept["config"], revision if isinstance(revision, str) else None)


def _age_s(file: Path) -> float:
    try:
        return abs(time.time() - file.stat().st_mtime)
    except OSError:
        return FRESH_S


def _is_offline(environ: Mapping[str, str]) -> bool:
    told = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
    return told.upper() in _TRUE


def _endpoint(environ: Mapping[str, str], variable: str, usual: str) -> str:
    endpoint = (environ.get(variable) or usual).rstrip("/")
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", endpoint, re.ASCII):
        raise InvalidRequestError(
            Phrase(
                "{variable} {endpoint!r} is not the address of a hub: write it as {usual}",
                variable=variable,
                endpoint=endpoint,
                usual=usual,
            )
        )
    return endpoint


def _token(environ: Mapping[str, str]) -> str | None:
    """Return the token of HF_TOKEN, else the one that ``hf auth login`` keeps; None without one."""
    token = environ.get("HF_TOKEN", "")
    if not token:
        home = environ.get("HF_HOME") or "~/.cache/huggingface"
        with suppress(InvalidFileError, InvalidRequestError):
            token = read_text(expanded(environ.get("HF_TOKEN_PATH") or f"{home}/token"))
    return _as_token(token)


def _as_token(text: str) -> str | None:
    token = text.strip()
    return token if re.fullmatch(r"[\x21-\x7e]+", token) else None


def _ask(url: str, token: str | None) -> _Answer:
    """Return the hub's answer, after at most ``ANSWER_S``."""
    from threading import Thread  # only a model of the hub needs it, as all below

    answers: list[_Answer] = []
    asking = Thread(target=lambda: answers.append(_answer(url, token)), daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return (
        answers[0]
        if answers
        else _Answer(failure=Phrase("no answer within {seconds:.0f} s", seconds=ANSWER_S))
    )


def _answer(url: str, token: str | None) -> _Answer:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    commits: list[str] = []

    class Redirects(HTTPRedirectHandler):
        """Redirects that give the token to no other host, and whose commit is read too."""

        def redirect_request(
            self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
        ) -> Any:
            commits.extend(filter(_COMMIT.fullmatch, headers.get_all(_COMMIT_HEADER, [])))
            new = super().redirect_request(req, fp, code, msg, headers, newurl)
            if new is not None and (new.type, new.host) == (req.type, req.host):
                authorize(new)
            return new

    def authorize(request: Request) -> None:
        if token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {token}")

    request = Request(url, headers={"User-Agent": "tuneplan"})
    authorize(request)
    try:
        with build_opener(Redirects).open(request, timeout=ANSWER_S) as response:
            commits.extend(filter(_COMMIT.fullmatch, response.headers.get_all(_COMMIT_HEADER, [])))
            body = response.read(MOST_BYTES + 1)
        return _Answer(status=200, body=body, commit=next(iter(commits), None))
    except HTTPError as error:
        with error:
            return _Answer(status=error.code, code=error.headers.get("X-Error-Code") or "")
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        told = getattr(reason, "strerror", None) or type(reason).__name__
        return _Answer(failure=one_line(str(told)))
