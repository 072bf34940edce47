"""Objects of S3, or of what speaks like it: their addresses, and requests signed by AWS's Signature Version 4.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. The names of variables are AWS's.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from service.fetch.errors import FetchError

_EMPTY = hashlib.sha256(b"").hexdigest()


def object_address(bucket: str, key: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The URL of an object, with the bucket in its path, and the region to sign for. Raises FetchError."""
    if not key or key.endswith("/"):
        raise FetchError(f"s3://{bucket}/{key}: names no object; it looks like s3://BUCKET/KEY")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise FetchError(f"AWS_ENDPOINT_URL_S3={endpoint}: not a URL; it looks like https://minio.storage:9000")
    base = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    return f"{base}/{quote(bucket)}/{quote(key, safe='/-_.~')}", region


def s3_secrets(
    address: str,
    region: str,
    environ: Mapping[str, str],
    now: float | None = None,
    signed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers that a GET of this address needs, now; none without credentials, as for a public bucket.

    `signed` are other headers of the request that the signature is to cover.
    """
    key_id, key = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key_id and not key:
        return {}
    if not key_id or not key:
        raise FetchError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: one of them is not set")
    parts = urlsplit(address)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    sent = {"x-amz-content-sha256": _EMPTY, "x-amz-date": moment}
    if token := environ.get("AWS_SESSION_TOKEN"):
        sent["x-amz-security-token"] = token
    covered = dict(sorted({**sent, **(signed or {}), "host": parts.netloc}.items()))
    names = ";".join(covered)
    lines = "".join(f"{name}:{value}\n" for name, value in covered.items())
    request = "\n".join(("GET", parts.path, parts.query, lines, names, _EMPTY))
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = _hmac(_signing_key(key, scope), text).hex()
    login = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope},SignedHeaders={names},Signature={signature}"
    return {**sent, "Authorization": login}


def _signing_key(key: str, scope: str) -> bytes:
    made = f"AWS4{key}".encode()
    for part in scope.split("/"):
        made = _hmac(made, part)
    return made


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
