"""Passes over a client's offer to speak another protocol, as of one that would like HTTP/2.

The parser takes what follows the head of such a request for that protocol's, and the body with it. There is none here,
so the header gets another name, of the same length: were a byte more or less, a body could pass for the next request.
"""

import re

_HEAD_END = b"\r\n\r\n"
_LINE = b"\r\nupgrade:"
# JSON has no line that begins so.
_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_PASSED_OVER = b"\r\nx-grade:"


class Offers:
    """The offers in what comes over one connection, piece by piece."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    @property
    def is_holding(self) -> bool:
        """Whether part of what came is still held back."""
        return bool(self._held)

    def pass_over(self, data: bytes, is_body: bool) -> bytes:
        """The piece without offers. `is_body`: it begins within a body. What may be half of an offer comes with the
        next piece."""
        if self._held:
            data, self._held = self._held + data, b""
        end = 0 if is_body else data.find(_HEAD_END)
        if end < 0:
            return self._hold(_OFFER.sub(_PASSED_OVER, data))
        # Without a further line's end there is no further head; and to look for one byte costs all but nothing.
        rest = 0 if is_body else end + len(_HEAD_END)
        if data.find(b"\r", rest) >= 0 or (not is_body and _OFFER.search(data, 0, end)):
            return _OFFER.sub(_PASSED_OVER, data)
        return data

    def _hold(self, data: bytes) -> bytes:
        at = data.rfind(b"\r")
        if at < 0 or not _LINE.startswith(data[at:].lower()):
            return data
        # It may be half of the head's end, too, whose other half is then to be seen with it.
        if data[:at].endswith(b"\r\n"):
            at -= 2
        self._held = data[at:]
        return data[:at]
