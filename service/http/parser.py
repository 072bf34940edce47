"""Parses requests with uvicorn's httptools protocol, strictly and within bounds: heads, chunks, and their framing. Does
not know what happens to a request.
"""

import time
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import limits
from service.errors import BadHttp, HeadTooLarge, ServiceError, TargetTooLong, UnsupportedCoding, UnsupportedVersion
from service.settings import Settings

_MAX_HEADERS = 100
_MAX_TARGET_BYTES = 8_192
# Each chunk costs a few µs: in a body of maximum size chunks must have 256 bytes on average.
_MIN_CHUNKS, _BYTES_PER_CHUNK = 1_024, 256
# Around a chunk's data: two line ends, the size in hexadecimal digits, and something for an extension.
_FRAME_BYTES = 32


class BoundedParser(HttpToolsProtocol):
    """The parser calls the `on_…` methods from within `feed`. `fault` keeps what they raise, because the parser reports
    only that something was raised."""

    def __init__(self, settings: Settings, **server: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(**server)
        self.max_head_bytes = limits.MAX_HEAD_BYTES
        self.fault: ServiceError | None = None
        self.is_head_due = True
        self.is_body_due = self.is_offer = False
        self.began_at = 0.0
        self.head_bytes = self.body_bytes = 0
        """Of the latest request."""
        self._headers = self._hosts = self._chunks = 0
        self._max_chunks = max(_MIN_CHUNKS, settings.max_body_bytes // _BYTES_PER_CHUNK)
        # Bytes received since the start of its head or body, and how many of the body came before; -1: none.
        self._wire_bytes = self._body_before = 0

    def feed(self, data: bytes) -> None:
        """Parse bytes.

        If a request offers another protocol, often HTTP/2, the parser takes what follows its head for that protocol's.
        None is supported, so the parser gets that head again without the offer, then what follows.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self.is_offer = False
                self.parser.feed_data(self._head_without_offer())
                data = data[offer.args[0] :]
                continue
            return

    def _head_without_offer(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def on_message_begin(self) -> None:
        self.head_bytes = self._headers = self._hosts = 0
        if not self.is_head_due:
            self.is_head_due = True
            self._wire_bytes = -1
        self.began_at = time.perf_counter()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > _MAX_TARGET_BYTES:
            self.fail(TargetTooLong(f"the target has more than {_MAX_TARGET_BYTES} bytes"))
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; or a trailer, which nothing here uses."""
        self._headers += 1
        self._count(len(name) + len(value))
        if self.is_body_due:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                self.fail(UnsupportedCoding(f"Transfer-Encoding: {_shown(value)}; send the body as it is, or chunked"))
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"

    def is_request(self) -> bool:
        """Return whether a judged head is a request's; False for an offer, which is parsed again."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self.fail(BadHttp("CONNECT: this is no proxy"))
            self.is_offer = True
            return False
        version = self.parser.get_http_version()
        if version != "1.1" or self._hosts != 1:
            self._judge_version(version)
        self.is_body_due = True
        self._wire_bytes, self.body_bytes, self._chunks = -1, 0, 0
        return True

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._max_chunks:
            self.fail(BadHttp(f"the body has more than {self._max_chunks} chunks; send larger ones"))

    def excess(self, size: int) -> ServiceError | None:
        """Return what is wrong with a request that is unfinished after `size` more bytes.

        The parser reports headers, extensions and trailers only when they are whole, so endless ones have to be counted
        here.
        """
        if self._wire_bytes < 0:
            # The current part began somewhere within these bytes.
            self._wire_bytes, self._body_before = 0, self.body_bytes
        else:
            self._wire_bytes += size
        if self.is_head_due:
            return self._too_large() if self._wire_bytes > self.max_head_bytes else None
        framing = self._wire_bytes - (self.body_bytes - self._body_before)
        if framing > self._max_chunks * _FRAME_BYTES + self.max_head_bytes:
            return BadHttp("the body's chunks have too many bytes of extensions or trailers")
        return None

    def _judge_version(self, version: str) -> None:
        if version not in ("1.0", "1.1"):
            self.fail(UnsupportedVersion(f"HTTP/{version}: this service speaks HTTP/1.1"))
        if self._hosts > 1 or version == "1.1" and not self._hosts:
            self.fail(BadHttp(f"the request has {self._hosts} Host headers and has to have one"))
        if version == "1.0":
            self.expect_100_continue = False
            if any(name == b"transfer-encoding" for name, _ in self.headers):
                self.fail(BadHttp("HTTP/1.0 has no Transfer-Encoding"))

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > self.max_head_bytes or self._headers > _MAX_HEADERS:
            self.fail(self._too_large())

    def _too_large(self) -> ServiceError:
        return HeadTooLarge(f"the head has more than {self.max_head_bytes} bytes or {_MAX_HEADERS} headers")

    def fail(self, fault: ServiceError) -> NoReturn:
        """Stop parsing this connection."""
        self.fault = fault
        raise fault


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
