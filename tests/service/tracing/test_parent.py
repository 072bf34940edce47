"""`traceparent`: what is in order is taken on, everything else counts as absent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tracing import Parent, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def parent(*values: str | bytes) -> Parent | None:
    """Of a request with these headers."""
    encoded = [value.encode("latin-1") if isinstance(value, str) else value for value in values]
    return parent_of({"headers": [(b"host", b"x"), *((b"traceparent", value) for value in encoded)]})


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (GOOD, True),
        (GOOD[:-2] + "00", False),
        (GOOD[:-2] + "03", True),
        (GOOD[:-2] + "fe", False),
        (f"01-{TRACE}-{SPAN}-01-what-will-be", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
    ],
)
def test_a_parent_in_order_is_taken_on(value: str, is_sampled: bool) -> None:
    assert parent(value) == Parent(int(TRACE, 16), int(SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD + "-more",
        GOOD + " ",
        " " + GOOD,
        GOOD[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        GOOD.replace("b7", "é7"),
        f"01-{TRACE}-{SPAN}-01-\n",
        "00-" + "a" * 30_000,
    ],
)
def test_what_is_not_in_order_counts_as_absent(value: str) -> None:
    assert parent(value) is None


def test_two_parents_are_none() -> None:
    assert parent() is None
    assert parent(GOOD, GOOD) is None


@given(st.binary(max_size=80) | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{1,3}-?.{0,3}"))
def test_any_bytes_are_a_parent_or_none(value: bytes) -> None:
    found = parent(value)

    assert found is None or (found.trace_id and found.span_id and len(value) >= len(GOOD))
