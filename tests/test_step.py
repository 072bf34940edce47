"""A step is done only for its inputs; one with a damaged mark is not done."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done
from tests.contract.examples import any_json

VALUES = st.lists(any_json(st.text()), max_size=3)


def test_step_is_done_for_its_last_inputs(tmp_path: Path) -> None:
    for fingerprint in ("b", "a"):
        assert not is_done(tmp_path, fingerprint)
        mark_done(tmp_path, fingerprint, 1.23456)

    assert is_done(tmp_path, "a")
    assert not is_done(tmp_path, "b")
    assert (tmp_path / STEP_FILE).read_text() == '{"fingerprint": "a", "seconds": 1.235}\n'


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"a"', b"{}", b"\xff", b'{"fingerprint": ["a"]}'])
def test_step_with_a_damaged_mark_is_not_done(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STEP_FILE).write_bytes(content)
    (tmp_path / "other" / STEP_FILE).mkdir(parents=True)

    for folder in (tmp_path, tmp_path / "other", tmp_path / "nowhere"):
        assert not is_done(folder, "a")


@given(VALUES, VALUES)
def test_fingerprints_differ_if_inputs_do(first: list[object], other: list[object]) -> None:
    # By their JSON: 0, 0.0 and False are equal to Python, and are not the same input.
    texts = [json.dumps(inputs, sort_keys=True) for inputs in (first, other)]
    assert (fingerprint_of(*first) == fingerprint_of(*other)) == (texts[0] == texts[1])


def test_fingerprint_is_the_same_in_every_release() -> None:
    assert fingerprint_of("a", 1, {"c": 2.5, "b": [None]}) == fingerprint_of("a", 1, {"b": [None], "c": 2.5})
    assert fingerprint_of("a", 1) == "2657442bb4a48d62f780ea60395ef2d203da2669fa41cdc1f4f080b25ddb1a6a"
    with pytest.raises(TypeError, match="not JSON serializable"):
        fingerprint_of(Path("a"))
