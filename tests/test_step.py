"""A step is done only for the inputs it was done with, and a damaged note means that it is not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.step import STEP_FILE, fingerprint_of, is_done, mark_done

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_a_step_is_done_for_its_own_inputs(tmp_path: Path) -> None:
    assert not is_done(tmp_path, "a")
    mark_done(tmp_path, "a", 1.23456)

    assert is_done(tmp_path, "a")
    assert not is_done(tmp_path, "b")
    assert (tmp_path / STEP_FILE).read_text() == '{"fingerprint": "a", "seconds": 1.235}\n'


def test_a_step_done_again_is_done_for_its_last_inputs(tmp_path: Path) -> None:
    for fingerprint in ("a", "b"):
        mark_done(tmp_path, fingerprint, 1.0)

    assert is_done(tmp_path, "b")
    assert not is_done(tmp_path, "a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"a"', b"{}", b"\xff", b'{"fingerprint": ["a"]}'])
def test_a_damaged_note_means_not_done(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STEP_FILE).write_bytes(content)

    assert not is_done(tmp_path, "a")


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    (tmp_path / STEP_FILE).mkdir()

    assert not is_done(tmp_path, "a")
    assert not is_done(tmp_path / "nowhere", "a")


@given(st.lists(JSON, max_size=3), st.lists(JSON, max_size=3))
def test_fingerprints_differ_where_inputs_do(one: list[object], other: list[object]) -> None:
    # By their JSON: 0, 0.0 and False are equal to Python, and are not the same input.
    texts = [json.dumps(inputs, sort_keys=True) for inputs in (one, other)]
    assert (fingerprint_of(*one) == fingerprint_of(*other)) == (texts[0] == texts[1])


def test_a_fingerprint_is_the_same_in_every_release() -> None:
    assert fingerprint_of("a", 1, {"c": 2.5, "b": [None]}) == fingerprint_of("a", 1, {"b": [None], "c": 2.5})
    assert fingerprint_of("a", 1) == "2657442bb4a48d62f780ea60395ef2d203da2669fa41cdc1f4f080b25ddb1a6a"


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        fingerprint_of(Path("a"))
