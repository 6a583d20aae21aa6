"""Where the cache is, and whose it may be."""

import os
from pathlib import Path

import pytest

from planner.base.errors import InvalidRequestError
from planner.base.user_folders import cache_directory


def test_the_cache_is_where_the_desktop_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/tuneplan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "tuneplan"


def test_a_cache_that_every_user_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "tuneplan"
    cache_directory().mkdir()
    (tmp_path / "tuneplan").chmod(0o777)
    with pytest.raises(InvalidRequestError, match="may be written by every user, who could"):
        cache_directory()
    (tmp_path / "tuneplan").chmod(0o755)
    assert cache_directory().is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders to other users")
def test_a_cache_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_directory().mkdir()
    os.chown(tmp_path / "tuneplan", 4321, 4321)
    assert cache_directory().is_dir(), "root may use it"
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(InvalidRequestError, match="belongs to another user"):
        cache_directory()
