"""Privacy signals written bit by bit, as IAB Tech Lab's specifications have them, and BidRequests to put them into."""

from collections.abc import Collection
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

_ALPHABET = f"{ascii_uppercase}{ascii_lowercase}{digits}-_"
ALL = range(1, 25)
BUT_4 = [one for one in ALL if one != 4]
# IAB Tech Lab's own examples of GPP headers: of TCF EU; of TCF EU and US Privacy; of TCF Canada and US Privacy.
EU, EU_AND_USP, CANADA_AND_USP = "DBABM", "DBACNY", "DBABjw"


def segment(*fields: tuple[int, int]) -> str:
    """(value, width) fields in base64url without padding."""
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 6)
    return "".join(_ALPHABET[int(bits[place : place + 6], 2)] for place in range(0, len(bits), 6))


def tcf(purposes: Collection[int] = ALL, vendors: str = "bits", version: int = 2) -> str:
    """A TCF core segment. `vendors`: 755 and 9 allowed, as a bit field of 800 or as ranges (9; 700 to 760)."""
    fields = [(version, 6), (0, 36), (0, 36), (1, 12), (1, 12), (1, 6), (0, 12), (1, 12), (4, 6), (1, 1), (0, 1)]
    fields += [(0, 12), *((int(one in purposes), 1) for one in ALL), (0, 24), (0, 1), (0, 12)]
    if vendors == "bits":
        fields += [(800, 16), (0, 1), *((int(one in (9, 755)), 1) for one in range(1, 801))]
    else:
        fields += [(800, 16), (1, 1), (2, 12), (0, 1), (9, 16), (1, 1), (700, 16), (760, 16)]
    return segment(*fields)


_STATE, _MSPA = "processing sale_notice ads_notice sale ads", "- mode processing sale_notice ads_notice sale ads"
US: dict[int, tuple[str, int, int, str]] = {
    7: ("sharing sale_notice sharing_notice ads_notice - - sale sharing_out ads", 12, 2, "- - - service"),
    8: ("sale_notice sharing_notice - sale sharing_out", 9, 2, "- - - service"),
    9: (_STATE, 8, 1, "- - service"),
    10: (_STATE, 7, 1, "- - service"),
    **dict.fromkeys((11, 18), ("processing sale_notice ads_notice - sale ads", 8, 1, "- - service")),
    12: (_STATE, 8, 3, "- - service"),
    **dict.fromkeys((13, 14, 20), (_STATE, 8, 3, "- - - service")),
    15: (_STATE, 11, 3, "- - - service"),
    **dict.fromkeys((16, 19, 22, 23), (_STATE, 8, 1, "- - - service")),
    17: (_STATE, 9, 5, "- - - service"),
    21: (_STATE, 10, 5, "- - - service"),
    24: (_MSPA, 0, 0, "-"),
    **dict.fromkeys((25, 26, 27), (_MSPA, 0, 1, "-")),
}
"""GPP's US sections by ID: fields, how many follow of sensitive data and of children, and fields after them (IAB Tech
Lab, GPP: Section Information, and each section's specification; the last four as its reference encoder writes them)."""
FORBIDDING = {"sale": 1, "sharing_out": 1, "ads": 1, "service": 1, "mode": 2, "child": 1} | dict.fromkeys(
    ("sharing", "processing", "sale_notice", "sharing_notice", "ads_notice"), 2
)


def us_fields(section: int, version: int = 1) -> list[str]:
    """Names of the two-bit fields of a US section."""
    before, sensitive, children, after = US[section] if version == 1 else (US[section][0], 16, 3, US[section][3])
    return [*before.split(), *["sensitive"] * sensitive, *["child"] * children, *after.split()]


def us_section(section: int = 7, version: int = 1, gpc: int | None = None, **given: int) -> str:
    """A US section that permits by default, and whatever its fields about other things say."""
    values = {**dict.fromkeys(FORBIDDING, 0), "sale": 2, "ads": 2, **given}
    core = segment((version, 6), *[(values.get(name, 1), 2) for name in us_fields(section, version)])
    return core if gpc is None else f"{core}.{segment((1, 2), (gpc, 1))}"


def gpp(section: int, text: str) -> str:
    """A GPP string of one section."""
    code, rest = "1", section
    for number in [one for one in (21, 13, 8, 5, 3, 2, 1) if one <= section]:
        code = f"{int(number <= rest)}{code}"
        rest -= number * (number <= rest)
    return f"{segment((3, 6), (1, 6), (1, 12), (0, 1), (int(code, 2), len(code)))}~{text}"


def bid_request(**parts: Any) -> dict[str, Any]:  # noqa: ANN401
    """A BidRequest of two impressions with the given parts in place of its own."""
    return {
        "id": "br-1",
        "imp": [
            {"id": "1", "banner": {"w": 300, "h": 250, "pos": 3}, "ext": {"gpid": "/top"}},
            {"id": "2", "banner": {"w": 728, "h": 90, "pos": 1}},
        ],
        "site": {"id": "s1", "cat": ["IAB1", "IAB2"], "page": "https://example.com/"},
        "device": {"devicetype": 4, "ifa": "6d92078a-8246-4ba4-ae5b-76104861e7dc", "lmt": 0},
        "user": {"id": "exchange-7", "buyeruid": "u7", "yob": 1990},
        **parts,
    }


MAPPING = {
    "user_id": ["user.buyeruid", "user.id", "device.ifa"],
    "features": {"device": "device.devicetype", "hour": "imp.banner.pos", "temperature": "user.yob"},
}


IDS = [f"i{number}" for number in range(40)]


CANDIDATES = {"1": {"id": IDS, "bid": [0.5] * 40}, "2": {"id": IDS[:3]}}


CONTEXTS = {"1": {"device": 4, "hour": 3, "temperature": 1990}, "2": {"device": 4, "hour": 1, "temperature": 1990}}


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
