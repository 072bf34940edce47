"""What the bytes of a request tell at a glance, where it came whole, in one piece, and in the usual form.

The parser, the app and what they make of a request cost several times as much as a refusal may. Whatever is not surely
one whole request for scores, as the parser would read it, is not told of: it goes the usual way.
"""

import re
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 2_048
# A line's name and value have no byte that a parser could take for something else.
_LINES = re.compile(rb"(?:\r\n[a-z0-9_-]++:[ \t]*+[!-~](?:[ -~]*[!-~])?)++", re.IGNORECASE)
_TOLD = (
    "content-length|x-request-id|x-deadline-ms|connection|proxy-connection|transfer-encoding|content-encoding|expect"
    "|upgrade|te|trailer|http2-settings"
)
_NAMED = re.compile(rb"\r\n(%b):[ \t]*([^\r]*)" % _TOLD.encode(), re.IGNORECASE)
_HARMLESS = {b"x-request-id", b"x-deadline-ms"}


class Glance(NamedTuple):
    """A request's headers that matter to a refusal, by their lower-case names, and how many bytes its body has."""

    headers: Headers
    size: int


class Glancer:
    """Looks at what comes over connections for POSTs of one path."""

    __slots__ = ("_line",)

    def __init__(self, path: str) -> None:
        self._line = b"POST %b HTTP/1.1" % path.encode()

    def look(self, data: bytes) -> Glance | None:
        """What is told of the request that the bytes are; None where they are not surely one and no more."""
        if not data.startswith(self._line):
            return None
        end = data.find(_END, len(self._line), _MAX_HEAD_BYTES)
        if end < 0 or _LINES.fullmatch(data, len(self._line), end) is None:
            return None
        headers: Headers = []
        size = -1
        for name, value in _NAMED.findall(data, len(self._line), end):
            name = name.lower()
            if name in _HARMLESS:
                headers.append((name, value))
            elif name == b"content-length" and size < 0 and value.isdigit() and len(value) < 10:
                size = int(value)
            elif name != b"connection" or value.lower() != b"keep-alive":
                return None
        if size != len(data) - end - len(_END):
            return None
        return Glance(headers, size)
