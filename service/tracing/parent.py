"""What a caller says of its trace: the header `traceparent`, as W3C's Trace Context has it.

Whoever sends it is believed in nothing but this: what is not in order counts as absent.
"""

import re
from typing import NamedTuple

from starlette.types import Scope

_HEADER = b"traceparent"
# Later versions may have more behind what the first one has.
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_FIRST, _NEVER = b"00", b"ff"
_SAMPLED = 1


class Parent(NamedTuple):
    """The span of the caller that asks, and whether it is recorded there."""

    trace_id: int
    span_id: int
    is_sampled: bool


def parent_of(scope: Scope) -> Parent | None:
    """The parent that a request names; None where it names none, several, or what cannot be one."""
    found = [value for name, value in scope["headers"] if name == _HEADER]
    if len(found) != 1 or (match := _FORM.fullmatch(found[0])) is None:
        return None
    version, trace, span, flags, rest = match.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == _NEVER or (version == _FIRST and rest) or not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
