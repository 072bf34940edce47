"""`python -m service.probe`: asks the local service, by the environment's settings, whether it is ready.

For the image's health check, which runs every few seconds: it loads only the standard library.
"""

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Mapping

_TIMEOUT_S = 3.0


def probe(environ: Mapping[str, str]) -> str | None:
    """Return what is wrong, or None."""
    name = "MSD_ADMIN_PORT" if environ.get("MSD_ADMIN_PORT") else "MSD_PORT"
    host, given = environ.get("MSD_HOST", "127.0.0.1"), environ.get(name, "8080")
    if not given.isdecimal() or len(given) > 5 or not 0 < int(given) < 65_536:
        return f"{name}={given!r} is no port"
    host, port = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(given)
    try:
        if environ.get("MSD_TLS_CLIENT_CA") and name == "MSD_PORT":
            # Without a certificate the connection is refused: only the open port can be checked.
            socket.create_connection((host, port), _TIMEOUT_S).close()
            return None
        return _asked(_connection(host, port, bool(environ.get("MSD_TLS_CERT"))))
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error}"


def _connection(host: str, port: int, is_tls: bool) -> http.client.HTTPConnection:
    if not is_tls:
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    # Its certificate is for its public name, and nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)


def _asked(connection: http.client.HTTPConnection) -> str | None:
    try:
        connection.request("GET", "/health/ready")
        reply = connection.getresponse()
        body = reply.read().decode("utf-8", "replace")
        return None if reply.status == 200 else f"{reply.status}: {body}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(probe(os.environ))
