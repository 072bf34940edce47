"""Privacy signals: what each says of the use of a user's identity, and that whatever cannot be read means no."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.consent import has_consent
from tests.contract.bid_requests import ALLOWED, EU, FORBIDDING, REFUSED, US, gpp, tcf, us_fields, us_section


@pytest.mark.parametrize("case", ALLOWED)
def test_allows_identity(case: str) -> None:
    assert has_consent(ALLOWED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_forbids_identity(case: str) -> None:
    assert not has_consent(REFUSED[case])


@pytest.mark.parametrize("section", US)
def test_each_field_of_a_us_section_decides_alone(section: int) -> None:
    def allows(text: str) -> bool:
        return has_consent({"regs": {"gpp": gpp(section, text), "gpp_sid": [section]}})

    whole = us_section(section)
    assert allows(whole)
    for name in {*us_fields(section)} & FORBIDDING.keys():
        assert not allows(us_section(section, **{name: FORBIDDING[name]})), name
        assert not allows(us_section(section, **{name: 3})), name
    assert not allows(whole[:-1])
    assert not allows(f"D{whole[1:]}"), "version 3"
    assert allows(us_section(section, gpc=1)) is (section in (25, 26, 27))  # their second segment is about other data


@pytest.mark.parametrize("vendors", ["bits", "ranges"])
def test_vendor_needs_its_own_consent(vendors: str) -> None:
    request = {"regs": {"gdpr": 1}, "user": {"consent": tcf(vendors=vendors)}}
    allowed = {vendor for vendor in (*range(1, 900), 65_535) if has_consent(request, vendor)}

    assert allowed == ({9, 755} if vendors == "bits" else {9, *range(700, 761)})
    assert has_consent({}, 5)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
SIGNALS = st.sampled_from(["gdpr", "coppa", "us_privacy", "gpp", "gpp_sid", "consent", "lmt", "dnt", "ext", "gpc"])
STRINGS = st.text("ABCDL~.-_1YNjw\ud800", max_size=60) | st.sampled_from([tcf(), f"{EU}~{tcf()}", "1YNN"])
VALUES = st.recursive(
    SCALARS | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SIGNALS, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["regs", "user", "device"]), st.dictionaries(SIGNALS, VALUES) | VALUES))
def test_any_signals_give_an_answer(request: dict[str, Any]) -> None:
    assert has_consent(request, 9) in (True, False)


@given(st.integers(0, 229), st.data())
def test_cut_string_forbids_identity(length: int, data: st.DataObject) -> None:
    whole = tcf(vendors=data.draw(st.sampled_from(["bits", "ranges"])))

    assert not has_consent({"regs": {"gdpr": 1}, "user": {"consent": whole[: length // 6]}})
