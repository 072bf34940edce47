"""How long is waited: longer each time, never less than the server asks for, and never for ever."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.teachers.openai_compatible import pause, retry_after

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@given(attempt=st.integers(1, 20), base=st.floats(0.0, 10.0), asked=st.none() | st.floats(0.0, 600.0))
def test_pauses_are_bounded_and_heed_the_server(attempt: int, base: float, asked: float | None) -> None:
    found = pause(attempt, base, asked)
    assert (asked or 0.0) <= found <= (asked or 0.0) + 60.0
    assert asked is not None or found >= min(base * 2 ** (attempt - 1), 60.0) / 2


def test_pauses_are_spread() -> None:
    assert len({pause(3, 1.0) for _ in range(20)}) > 1
    assert len({pause(3, 1.0, 5.0) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Tue, 01 Jan 2030 00:01:30 GMT", 90.0),
        ("Tue, 01 Jan 2030 00:01:30", 90.0),
        ("Tue, 01 Jan 2030 01:00:00 +0100", 0.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Tue, 99 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_the_header_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


def test_no_header_asks_for_nothing() -> None:
    assert retry_after({}) is None
