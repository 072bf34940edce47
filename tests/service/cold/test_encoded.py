"""A vector of a text comes back for that text and that encoder alone, whatever was done to it on the way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.cold.encoded import Vector, pack_vector, text_key, unpack_vector

WIDTH = 8
IDENTITY = "ab" * 32
VECTORS = arrays(np.float16, WIDTH, elements=st.floats(-60_000, 60_000, width=16))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(TEXTS, VECTORS)
def test_a_vector_comes_back_as_it_was(text: str, vector: Vector) -> None:
    key = text_key(IDENTITY, text)
    found = unpack_vector(key, WIDTH, pack_vector(key, vector))

    assert found is not None
    assert found.tobytes() == vector.tobytes()


@given(TEXTS, TEXTS, VECTORS)
def test_never_the_vector_of_another_text_encoder_or_width(text: str, other: str, vector: Vector) -> None:
    value = pack_vector(text_key(IDENTITY, text), vector)
    strangers = [text_key("ac" * 32, text)]
    if other != text:
        strangers.append(text_key(IDENTITY, other))

    assert [unpack_vector(key, WIDTH, value) for key in strangers] == [None] * len(strangers)
    assert unpack_vector(text_key(IDENTITY, text), WIDTH + 1, value) is None


@given(VECTORS, st.data())
def test_any_byte_that_is_wrong_or_missing_is_found_out(vector: Vector, data: st.DataObject) -> None:
    key = text_key(IDENTITY, "a tent")
    value = pack_vector(key, vector)
    place = data.draw(st.integers(0, len(value) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != value[place]))

    assert unpack_vector(key, WIDTH, value[:place] + bytes([byte]) + value[place + 1 :]) is None
    assert unpack_vector(key, WIDTH, value[:place]) is None
    assert unpack_vector(key, WIDTH, value + b"\0") is None


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_none(number: float) -> None:
    key = text_key(IDENTITY, "a tent")

    assert unpack_vector(key, WIDTH, pack_vector(key, np.full(WIDTH, number, np.float16))) is None
