"""`traceparent`: what is in order is taken on, everything else counts as absent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tracing import parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def parent(*values: str | bytes) -> tuple[int, int, bool] | None:
    """Trace, span and whether it is sampled, of a request with these headers."""
    encoded = [value.encode("latin-1") if isinstance(value, str) else value for value in values]
    found = parent_of([(b"host", b"x"), *((b"traceparent", value) for value in encoded)])
    return (found.trace_id, found.span_id, found.trace_flags.sampled) if found.is_valid else None


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
    assert parent(value) == (int(TRACE, 16), int(SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD + "-more",
        GOOD[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        GOOD.replace("b7", "é7"),
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

    assert found is None or (found[0] and found[1] and len(value) >= len(GOOD))
