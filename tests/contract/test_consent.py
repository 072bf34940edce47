"""Privacy signals: what each says of the use of a user's identity, and that whatever cannot be read means no."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.consent import has_consent
from tests.contract.bid_requests import ALL, FORBIDDING, US, gpp, tcf, us_fields, us_section

BUT_4 = [one for one in ALL if one != 4]
# IAB Tech Lab's own examples of GPP headers: of TCF EU; of TCF EU and US Privacy; of TCF Canada and US Privacy.
EU, EU_AND_USP, CANADA_AND_USP = "DBABM", "DBACNY", "DBABjw"

ALLOWED: dict[str, dict[str, Any]] = {
    "no signals": {},
    "nulls": {"regs": None, "user": {"consent": None}, "device": {"lmt": None}},
    "flags of 0": {"regs": {"coppa": 0, "gdpr": 0}, "device": {"lmt": 0, "dnt": 0, "ext": {"atts": 0}}},
    "tracking authorised on iOS": {"device": {"ext": {"atts": 3}}},
    "GDPR does not apply": {"regs": {"gdpr": 0}, "user": {"consent": "?"}},
    "TCF": {"regs": {"gdpr": 1}, "user": {"consent": tcf()}},
    "TCF in ext": {"regs": {"ext": {"gdpr": 1}}, "user": {"ext": {"consent": tcf()}}},
    "TCF of three purposes": {"regs": {"gdpr": 1}, "user": {"consent": tcf((1, 3, 4))}},
    "TCF with more segments": {"regs": {"gdpr": 1}, "user": {"consent": f"{tcf()}.IFoEUQQgAIQ"}},
    "empty strings": {"regs": {"us_privacy": "", "gpp": "", "gpp_sid": [-1]}, "user": {"consent": ""}},
    "US privacy": {"regs": {"us_privacy": "1YNN"}},
    "US privacy does not apply": {"regs": {"ext": {"us_privacy": "1---"}}},
    "GPP, EU": {"regs": {"gpp": f"{EU}~{tcf()}", "gpp_sid": [2]}},
    "GPP, both": {"regs": {"gpp": f"{EU_AND_USP}~{tcf()}~1YNN", "gpp_sid": [2, 6]}},
    "GPP, the other section refuses": {"regs": {"gpp": f"{EU_AND_USP}~{tcf(BUT_4)}~1YNN", "gpp_sid": [6]}},
    "GPP, no section applies": {"regs": {"gpp": f"{EU}~{tcf(BUT_4)}", "gpp_sid": [-1]}},
    "GPP, US": {"regs": {"gpp": gpp(7, us_section()), "gpp_sid": [7]}},
    "GPP, US, nothing sold": {"regs": {"gpp": gpp(7, us_section(sale=0, ads=0)), "gpp_sid": [7]}},
    "GPP, US, version 2": {"regs": {"gpp": gpp(7, us_section(version=2)), "gpp_sid": [7]}},
    "GPP, US, no GPC": {"regs": {"gpp": gpp(7, us_section(gpc=0)), "gpp_sid": [7]}},
    # As publishers send it: not opted out, a GPC segment that says no.
    "GPP, US, from the field": {"regs": {"gpp": "DBABLA~BVQqAAAAAgA.QA", "gpp_sid": [7]}},
    "GPP in ext, after Canada's": {"regs": {"ext": {"gpp": f"{CANADA_AND_USP}~x~1YNN", "gpp_sid": [6]}}},
}
REFUSED: dict[str, dict[str, Any]] = {
    "a child": {"regs": {"coppa": 1}},
    "a flag of another type": {"regs": {"coppa": "0"}},
    "tracking denied on iOS": {"device": {"ext": {"atts": 2}}},
    "tracking restricted on iOS": {"device": {"ext": {"atts": 1}}},
    "an unreadable answer on iOS": {"device": {"ext": {"atts": "3"}}},
    "an answer on iOS that is no number": {"device": {"ext": {"atts": False}}},
    "extensions that are no object": {"device": {"ext": 3}},
    "limited tracking": {"device": {"lmt": 1}},
    "do not track": {"device": {"dnt": 1}},
    "Global Privacy Control": {"regs": {"ext": {"gpc": "1"}}},
    "GDPR without a string": {"regs": {"gdpr": 1}},
    "GDPR without a string, in ext": {"regs": {"gdpr": 0, "ext": {"gdpr": 1}}},
    "an empty string": {"regs": {"gdpr": 1}, "user": {"consent": ""}},
    "TCF without purpose 4": {"regs": {"gdpr": 1}, "user": {"consent": tcf(BUT_4)}},
    "TCF without purpose 1": {"regs": {"gdpr": 1}, "user": {"consent": tcf((3, 4))}},
    "TCF without purpose 3, GDPR unsaid": {"user": {"consent": tcf((1, 4))}},
    # The example of IAB Tech Lab's GPP specification, which consents to nothing.
    "TCF from the field": {"regs": {"gdpr": 1}, "user": {"consent": "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"}},
    "TCF 1": {"regs": {"gdpr": 1}, "user": {"consent": tcf(version=1)}},
    "half of TCF": {"regs": {"gdpr": 1}, "user": {"consent": tcf()[:38]}},
    "TCF with padding": {"regs": {"gdpr": 1}, "user": {"consent": f"{tcf()}="}},
    "one of two strings refuses": {
        "regs": {"gdpr": 1},
        "user": {"consent": tcf(), "ext": {"consent": tcf(BUT_4)}},
    },
    "a string that is a number": {"regs": {"gdpr": 1}, "user": {"consent": 5}},
    "opted out": {"regs": {"us_privacy": "1YYN"}},
    "US privacy of another version": {"regs": {"us_privacy": "2YNN"}},
    "US privacy, one more": {"regs": {"us_privacy": "1YNN\n"}},
    "GPP, EU": {"regs": {"gpp": f"{EU}~{tcf(BUT_4)}", "gpp_sid": [2]}},
    "GPP, sections unsaid": {"regs": {"gpp": f"{EU_AND_USP}~{tcf(BUT_4)}~1YNN"}},
    "GPP, a section that is not there": {"regs": {"gpp": f"{EU}~{tcf()}", "gpp_sid": [7]}},
    "GPP, a section that is not read": {"regs": {"gpp": f"{CANADA_AND_USP}~x~1YNN", "gpp_sid": [5, 6]}},
    "GPP, fewer sections than the header": {"regs": {"gpp": f"{EU_AND_USP}~{tcf()}", "gpp_sid": [2]}},
    "GPP of another version": {"regs": {"gpp": f"DCABM~{tcf()}", "gpp_sid": [2]}},
    "GPP, no header": {"regs": {"gpp": "", "gpp_sid": [2]}},
    "GPP, sections without a string": {"regs": {"gpp_sid": [2]}},
    "GPP, sections that are no list": {"regs": {"gpp": f"{EU}~{tcf()}", "gpp_sid": 2}},
    "GPP, sections that are no numbers": {"regs": {"gpp": f"{EU}~{tcf()}", "gpp_sid": [[2]]}},
    "GPP, no such answer": {"regs": {"gpp": gpp(7, us_section(ads=3)), "gpp_sid": [7]}},
    "GPP, a known child, version 2": {"regs": {"gpp": gpp(7, us_section(child=2, version=2))}},
    "GPP, many segments": {"regs": {"gpp": gpp(7, us_section() + ".A" * 8_192), "gpp_sid": [7]}},
    "GPP, GPC": {"regs": {"gpp": gpp(7, us_section(gpc=1)), "gpp_sid": [7]}},
    "regs that are no object": {"regs": []},
    "a user that is no object": {"user": "u1"},
    "an ext that is no object": {"regs": {"ext": 1}},
}


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
