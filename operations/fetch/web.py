"""HTTP client on the standard library, which sorts failures by whether to retry.

Certificates are checked against the system's authorities, or those of SSL_CERT_FILE. A secret header is sent only to
its host, not to a redirect's target.
"""

import http.client
import ssl
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit

from msd.contract.errors import MsdError

Reply = http.client.HTTPResponse | HTTPError
TIMEOUT_S = 30.0
_PASSING = (408, 425, 429)
_ADVICE = {
    401: "it wants credentials, and those given, if any, are not good",
    403: "the credentials, if any, do not allow it, or the signature of the address has ended",
    404: "there is nothing at this address",
}


class FetchError(MsdError):
    """The bundle cannot be fetched, and retrying would not help."""


class FetchUnavailable(FetchError):
    """The bundle could not be fetched now; retrying may help."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from TLS to plain HTTP."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https://"):
            raise FetchError(f"{shown(req.full_url)}: redirects to {shown(newurl)}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


class Web:
    """Opens only http and https addresses, also after redirects."""

    def __init__(self) -> None:
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(),
        ):
            self._opener.add_handler(handler)

    def open(
        self, url: str, headers: Mapping[str, str], secrets: Mapping[str, str], *, expected: int | None = None
    ) -> Reply:
        """Return the reply with an unread body. An error status is raised unless it is `expected`."""
        try:
            request = urllib.request.Request(url, headers=dict(headers))
            for name, value in secrets.items():
                request.add_unredirected_header(name, value)
            reply: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT_S)
            return reply
        except HTTPError as error:
            if error.code == expected:
                return error
            error.close()
            kind = FetchUnavailable if error.code >= 500 or error.code in _PASSING else FetchError
            advice = _ADVICE.get(error.code)
            raise kind(f"{shown(url)}: answers {error.code}" + (f": {advice}" if advice else "")) from None
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise FetchError(
                    f"{shown(url)}: its certificate is not trusted ({error.reason.verify_message}); name the"
                    " authority's file in SSL_CERT_FILE"
                ) from None
            raise FetchUnavailable(f"{shown(url)}: {_reason(error.reason)}") from None
        except http.client.InvalidURL as error:
            raise FetchError(f"{shown(url)}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise FetchUnavailable(f"{shown(url)}: {_reason(error)}") from None
        except ValueError as error:  # an invalid URL
            raise FetchError(f"{shown(url)}: {error}") from None


def shown(url: str) -> str:
    """Return the URL for messages: without its query, which may be a signature, and without credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _reason(error: object) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
