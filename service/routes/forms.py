"""Translation of `/v1/openrtb` and `/v2` to scoring requests, by path. Scores nothing."""

from urllib.parse import unquote

from native import core
from service.http.json_parser import JsonParser
from service.routes.oip.infer import translate_tensors
from service.routes.openrtb import PATH, translate_impressions
from service.scoring.deployment import Deployment
from service.telemetry.metrics import Metrics


class Forms:
    """All of them, for any thread."""

    def __init__(self, metrics: Metrics, max_candidates: int) -> None:
        """`max_candidates`: of one request."""
        self._metrics, self._max_candidates = metrics, max_candidates
        self._parser = JsonParser(max_candidates)

    def translate(
        self, deployment: Deployment, path: str, json_length: bytes | None, request_id: str, body: bytes
    ) -> "core.Translation":
        """Return the scoring requests that a request makes: see `Translate`."""
        if path == PATH:
            document = self._parser.load(body)
            return translate_impressions(deployment, request_id, document, self._max_candidates, self._metrics)
        asked = unquote(path), json_length, request_id, body
        return translate_tensors(deployment, *asked, self._max_candidates, self._parser)
