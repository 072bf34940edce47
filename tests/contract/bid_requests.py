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


def us_national(
    sale: int = 2, sharing: int = 2, ads: int = 2, child: int = 0, version: int = 1, gpc: int | None = None
) -> str:
    """GPP's section 7."""
    sensitive, children = ((12, 2), (16, 3))[version - 1]
    fields = [(version, 6), *[(1, 2)] * 6, (sale, 2), (sharing, 2), (ads, 2), *[(0, 2)] * sensitive]
    core = segment(*fields, *[(0, 2)] * (children - 1), (child, 2), *[(0, 2)] * 4)
    return core if gpc is None else f"{core}.{segment((1, 2), (gpc, 1))}"


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
