"""A whole request read without the parser, where it is of the form that programs use; anything else is the parser's.

It is the same request to the parser: two readings of one connection that differ are how requests are smuggled.
"""

# What a head may be made of.
_LETTERS = bytes(range(0x20, 0x7F)) + b"\r\n\t"
# What clients and proxies send that says nothing of how the request is framed, or is judged below.
_PLAIN = frozenset(
    (
        *(b"host", b"content-type", b"content-length", b"user-agent", b"accept", b"accept-encoding", b"connection"),
        *(b"x-deadline-ms", b"x-request-id", b"authorization", b"x-api-key", b"traceparent", b"tracestate"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip"),
        *(b"accept-language", b"baggage", b"forwarded", b"via", b"x-amzn-trace-id"),
    )
)
_DIGITS = 9
Headers = list[tuple[bytes, bytes]]


def whole_request(data: bytes, first_line: bytes, max_head_bytes: int) -> tuple[Headers, int] | None:
    """The headers of the one request that `data` is, names in small letters, and the size of its body in bytes.

    `first_line` with its line end. None where it is another request, not whole, more than one, or in an unusual form.
    """
    end = data.find(b"\r\n\r\n", 0, max_head_bytes)
    if end < 0 or not data.startswith(first_line):
        return None
    head = data[:end]
    lines = head.split(b"\r\n")
    if head.translate(None, _LETTERS) or not head.count(b"\r") == head.count(b"\n") == len(lines) - 1:
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        headers[name.lower() if colon else b""] = value.strip(b" \t")
    if len(headers) != len(lines) - 1 or not headers.keys() <= _PLAIN or b"host" not in headers:
        return None
    length = headers.get(b"content-length", b"")
    size = len(data) - end - 4
    if not length.isdigit() or len(length) > _DIGITS or int(length) != size:
        return None
    if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return list(headers.items()), size
