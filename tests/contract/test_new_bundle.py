"""A new bundle takes its place whole, or leaves what was there."""

from pathlib import Path

import pytest

from msd.contract.bundle import MANIFEST, RANKER, new_bundle, open_bundle
from msd.contract.errors import BundleError
from tests.contract.examples import SCHEMA


def fail_half_way(folder: Path) -> None:
    """A new bundle that is never finished."""
    with new_bundle(folder) as temporary:
        (temporary / MANIFEST).write_text("half")
        raise KeyboardInterrupt


def test_a_bundle_takes_the_place_of_another_at_once(folder: Path) -> None:
    with new_bundle(folder) as temporary:
        (temporary / MANIFEST).write_text("new")
        assert (folder / RANKER).exists()

    assert [path.name for path in folder.iterdir()] == [MANIFEST]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failure_leaves_the_bundle_that_was_there(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(folder)

    assert open_bundle(folder).schema == SCHEMA
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_new_bundle_needs_no_folder_or_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "deep/new"):
        with new_bundle(folder) as temporary:
            (temporary / MANIFEST).touch()
        assert [path.name for path in folder.iterdir()] == [MANIFEST]


def test_a_link_goes_on_pointing_to_the_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    with new_bundle(tmp_path / "current") as temporary:
        (temporary / MANIFEST).write_text("new")

    assert (tmp_path / "current").is_symlink()
    assert (folder / MANIFEST).read_text() == "new"


def test_nothing_but_a_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    for taken in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(BundleError, match="exists and is not a bundle"), new_bundle(taken):
            raise AssertionError("the block does not run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
