"""Privacy signals written bit by bit, as IAB Tech Lab's specifications have them, and BidRequests to put them into."""

from collections.abc import Collection
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

_ALPHABET = f"{ascii_uppercase}{ascii_lowercase}{digits}-_"
ALL = range(1, 25)


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
