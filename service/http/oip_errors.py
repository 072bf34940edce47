"""Errors in the form of the Open Inference Protocol: one text, and 400 for whatever is wrong with a request."""

import orjson

from service.errors import ErrorResponse

PREFIX = "/v2"
_INVALID = 422


class OipErrorResponse(ErrorResponse):
    """Status, headers and body of one error under /v2."""

    __slots__ = ()

    def _form(self, message: str, field: str | None) -> bytes:
        if self.status == _INVALID:
            self.status = 400
        return orjson.dumps({"error": f"{field}: {message}" if field else message})


def error_response(error: Exception, path: str) -> ErrorResponse:
    """The reply to a request for this path."""
    is_ours = path == PREFIX or path.startswith(f"{PREFIX}/")
    return OipErrorResponse(error) if is_ours else ErrorResponse(error)
