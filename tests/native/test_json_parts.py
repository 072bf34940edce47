"""The core counts the keys and values of JSON that Python will parse, whatever its strings hold."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import native
from tests.contract.examples import any_json

assert native.core is not None, "tests of the core are collected where it is built"
core = native.core


def parts_of(document: Any) -> int:  # noqa: ANN401 - any document
    """Colons, commas and opening brackets outside strings."""
    if not isinstance(document, dict | list):
        return 0
    inner = document.values() if isinstance(document, dict) else document
    own = len(document) if isinstance(document, dict) else 0
    return own + 1 + max(0, len(document) - 1) + sum(map(parts_of, inner))


@given(any_json(st.text() | st.sampled_from(['"', "\\", '\\"', ":,[{", '{"'])), st.booleans())
def test_parts_are_counted_outside_strings(document: Any, is_ascii: bool) -> None:  # noqa: ANN401 - any document
    assert core.json_parts(json.dumps(document, ensure_ascii=is_ascii).encode(errors="replace")) == parts_of(document)


@given(st.binary(max_size=60))
def test_other_bytes_have_a_number_of_parts(body: bytes) -> None:
    assert 0 <= core.json_parts(body) <= len(body)
