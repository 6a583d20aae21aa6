"""Bounds read from the metadata of an installed distribution."""

from pathlib import Path

import pytest

from launcher.compat.requirements import Package, declared_packages


def distribution(folder: Path, name: str, version: str, *needs: str) -> None:
    """Put a distribution on the path: its metadata is all that there is of it."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    (place / "METADATA").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "standing"),
    [
        ("1.9.3", "too_old"),
        ("1.10.0", "tested"),
        ("1.16.9+local", "tested"),
        ("1.17.0", "newer_than_tested"),
        ("2.0.0rc1", "newer_than_tested"),
        (None, "missing"),
    ],
)
def test_where_a_version_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, standing: str
) -> None:
    needs = ('lorem>=1.10,<1.17; extra == "train"', 'dolor>=1; extra == "dev"')
    distribution(tmp_path, "tuneplan", "0.1.0", *needs)
    if version is not None:
        distribution(tmp_path, "lorem", version)
    monkeypatch.syspath_prepend(str(tmp_path))
    (package,) = declared_packages()
    assert package.name == "lorem"
    assert (package.installed, package.standing) == (version, standing)
    assert package.bounds == ">=1.10,<1.17"


def test_without_the_distribution_nothing_is_declared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import packaging.requirements

    assert packaging.requirements  # imported before the path is taken away
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert declared_packages() == ()


def test_this_distribution_declares_what_trains() -> None:
    names = {package.name for package in declared_packages()}
    assert {"torch", "transformers", "trl", "msgspec"} <= names
    assert all(isinstance(package, Package) for package in declared_packages())
