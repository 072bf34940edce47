"""Whether a BidRequest's privacy signals permit the use of the user's identity: COPPA, LMT, ATT, TCF, US Privacy and
GPP.

An absent signal does not apply, an unreadable one means no. Decides for one purpose, personalised advertising. Does not
know features, rows or HTTP.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

# Apple's App Tracking Transparency: not asked yet, and authorised; 1 is restricted, 2 denied.
_MAY_TRACK = (0, 3)
# TCF purposes, all required: store and access information on a device, create a profile for personalised ads, and use
# it.
_PURPOSES = (1, 3, 4)
# Bit offsets in TCF's core segment (IAB Tech Lab, TCF consent string format, version 2).
_PURPOSES_AT, _MAX_VENDOR_AT, _IS_RANGE_AT = 152, 213, 229
_GPP_HEADER = "000011" + "000001"  # its type and version
# That no section applies, and the header.
_NO_SECTIONS = {-1, 3}
_US_PRIVACY = re.compile(r"1[YN-][YN-][YN-]")
_MAX_CHARS, _MAX_SECTION = 16_384, 255
_BITS = {char: f"{place:06b}" for place, char in enumerate(f"{ascii_uppercase}{ascii_lowercase}{digits}-_")}
_FIBONACCI = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
# GPP's US sections by ID: the fields of each version's core segment, two bits each after six of the version: notices
# (n), opt-outs of sale, sharing and targeted advertising (o), known children (c), service provider mode (s), MSPA mode
# (m), and others (.). The last four are read as IAB Tech Lab's encoder writes them.
_US_FIELDS: Mapping[int, tuple[str, ...]] = {
    7: (f"nnnn..ooo{'.' * 12}cc...s", f"nnnn..ooo{'.' * 16}ccc...s"),
    8: (f"nn.oo{'.' * 9}cc...s",),
    9: (f"nnnoo{'.' * 8}c..s",),
    10: (f"nnnoo{'.' * 7}c..s",),
    12: (f"nnnoo{'.' * 8}ccc..s",),
    15: (f"nnnoo{'.' * 11}ccc...s",),
    17: (f"nnnoo{'.' * 9}ccccc...s",),
    21: (f"nnnoo{'.' * 10}ccccc...s",),
    24: (".mnnnoo.",),
    **dict.fromkeys((11, 18), (f"nnn.oo{'.' * 8}c..s",)),
    **dict.fromkeys((13, 14, 20), (f"nnnoo{'.' * 8}ccc...s",)),
    **dict.fromkeys((16, 19, 22, 23), (f"nnnoo{'.' * 8}c...s",)),
    **dict.fromkeys((25, 26, 27), (".mnnnooc.",)),
}
_US_PERMITS = {"n": ("00", "01"), "o": ("00", "10"), "c": ("00",), "s": ("00", "10"), "m": ("00", "01")}
# Their second segment is about sensitive data; that of all others about GPC.
_WITHOUT_GPC = (25, 26, 27)

Part = Mapping[str, Any]
SIGNALS = ("regs", "user.consent", "user.ext.consent", "device.lmt", "device.dnt", "device.ext.atts")
"""Paths of all that `has_consent` reads."""


class _Unreadable(Exception):
    """A malformed signal."""


def has_consent(bid_request: Part, vendor_id: int | None = None) -> bool:
    """Return whether the user's identity may be used. `vendor_id`: the bidder's in TCF's Global Vendor List, if its
    consent is required too."""
    try:
        regs, user, device = _part(bid_request, "regs"), _part(bid_request, "user"), _part(bid_request, "device")
        regs_ext, user_ext = _part(regs, "ext"), _part(user, "ext")
        if _is_denied(_part(device, "ext").get("atts")) or _is_set(regs.get("coppa")):
            return False
        if _is_set(device.get("lmt")) or _is_set(device.get("dnt")):
            return False
        consent = _given("consent", user, user_ext)
        if not regs and not consent:
            return True
        return (
            regs_ext.get("gpc") in (None, "0", 0)
            and _has_tcf(_given("gdpr", regs, regs_ext), consent, vendor_id)
            and all(map(_has_us_privacy, _given("us_privacy", regs, regs_ext)))
            and all(_has_gpp(part.get("gpp"), part.get("gpp_sid"), vendor_id) for part in (regs, regs_ext))
        )
    except (_Unreadable, ValueError, LookupError):  # invalid characters, and truncated strings
        return False


def consents(signals: bytes, vendor_id: int | None) -> bool:
    """Return `has_consent` of a BidRequest whose `SIGNALS` are a list in JSON, where all parents are objects."""
    regs, consent, consent_ext, lmt, dnt, atts = json.loads(signals)
    user = {"consent": consent, "ext": {"consent": consent_ext}}
    device = {"lmt": lmt, "dnt": dnt, "ext": {"atts": atts}}
    return has_consent({"regs": regs, "user": user, "device": device}, vendor_id)


def _part(parent: Part, name: str) -> Part:
    found = parent.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _Unreadable
    return found


def _given(name: str, *parts: Part) -> list[object]:
    """Return the values of a signal; an empty string counts as absent, as other bidders read it."""
    return [part[name] for part in parts if part.get(name) not in (None, "")]


def _is_set(flag: object) -> bool:
    """Return whether a flag is set: anything but a plain 0, so that a flag of a wrong type protects, too."""
    return flag is not None and (type(flag) is not int or flag != 0)


def _is_denied(atts: object) -> bool:
    return atts is not None and (type(atts) is not int or atts not in _MAY_TRACK)


def _has_tcf(gdpr: list[object], strings: list[object], vendor_id: int | None) -> bool:
    """Return whether TCF permits: a present string counts unless GDPR is declared not to apply."""
    applies = any(map(_is_set, gdpr))
    if gdpr and not applies:
        return True
    return (bool(strings) or not applies) and all(_tcf_allows(string, vendor_id) for string in strings)


def _tcf_allows(text: object, vendor_id: int | None) -> bool:
    bits = _bits(text)
    if len(bits) <= _IS_RANGE_AT or int(bits[:6], 2) != 2:
        raise _Unreadable
    if any(bits[_PURPOSES_AT + purpose - 1] == "0" for purpose in _PURPOSES):
        return False
    return vendor_id is None or _vendor_allowed(bits, vendor_id)


def _vendor_allowed(bits: str, vendor_id: int) -> bool:
    if bits[_IS_RANGE_AT] == "0":
        return vendor_id <= int(bits[_MAX_VENDOR_AT:_IS_RANGE_AT], 2) and bits[_IS_RANGE_AT + vendor_id] == "1"
    place = _IS_RANGE_AT + 13
    for _ in range(int(bits[_IS_RANGE_AT + 1 : place], 2)):
        width = 33 if bits[place] == "1" else 17
        first, last = int(bits[place + 1 : place + 17], 2), int(bits[place + width - 16 : place + width], 2)
        if first <= vendor_id <= last:
            return True
        place += width
    return False


def _has_us_privacy(text: object) -> bool:
    if not isinstance(text, str) or not _US_PRIVACY.fullmatch(text):
        raise _Unreadable
    return text[2] != "Y"


def _has_gpp(text: object, applying: object, vendor_id: int | None) -> bool:
    """Return whether GPP permits: all applicable sections, or all present ones if none are named."""
    applying = [] if applying is None else applying
    if not isinstance(applying, list) or {*map(type, applying)} - {int}:
        raise _Unreadable
    if text in (None, "") and not {*applying} - _NO_SECTIONS:
        return True
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        raise _Unreadable
    header, *texts = text.split("~")
    sections = dict(zip(_section_ids(_bits(header)), texts, strict=True))
    allows: dict[int, Callable[[object], bool]] = {
        2: lambda section: _tcf_allows(section, vendor_id),
        6: _has_us_privacy,
        **{one: partial(_us_allows, one) for one in _US_FIELDS},
    }
    return all(one in allows and allows[one](sections.get(one)) for one in {*(applying or sections)} - _NO_SECTIONS)


def _section_ids(bits: str) -> list[int]:
    """Return the IDs in GPP's header, a range of Fibonacci codes, each the distance from the previous ID."""
    if not bits.startswith(_GPP_HEADER):
        raise _Unreadable
    ids: list[int] = []
    place, last = 24, 0
    for _ in range(int(bits[12:24], 2)):
        is_group, place = bits[place] == "1", place + 1
        step, place = _fibonacci(bits, place)
        first = last = last + step
        if is_group:
            step, place = _fibonacci(bits, place)
            last += step
        ids += range(first, last + 1)
        if last > _MAX_SECTION:
            raise _Unreadable
    return ids


def _fibonacci(bits: str, place: int) -> tuple[int, int]:
    """Return the Fibonacci-coded number at an offset, and the next offset."""
    end = bits.index("11", place) + 1
    if end - place > len(_FIBONACCI):
        raise _Unreadable
    return sum(number for number, bit in zip(_FIBONACCI, bits[place:end], strict=False) if bit == "1"), end + 1


def _us_allows(section: int, text: object) -> bool:
    """Return whether a US section permits: no opt-out, not known to be a child, a notice of each opt-out, no GPC, and a
    publisher that need not keep bidders to a service provider's purposes."""
    if not isinstance(text, str):
        raise _Unreadable
    core, *segments = map(_bits, text.split("."))
    fields = dict(enumerate(_US_FIELDS[section], 1))[int(core[:6], 2)]
    if len(core) < 6 + 2 * len(fields):
        raise _Unreadable
    has_gpc = section not in _WITHOUT_GPC and any(segment[:3] == "011" for segment in segments)
    answers = zip(fields, (core[place : place + 2] for place in range(6, len(core), 2)), strict=False)
    return not has_gpc and all(answer in _US_PERMITS[field] for field, answer in answers if field in _US_PERMITS)


def _bits(text: object) -> str:
    """Return the bits of the first segment in base64url, without padding."""
    if not isinstance(text, str) or len(text) > _MAX_CHARS:
        raise _Unreadable
    return "".join([_BITS[char] for char in text.split(".", 1)[0]])
