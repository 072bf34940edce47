"""Translation of `/v1/openrtb` and `/v2` to scoring requests, by path. Scores nothing."""

from urllib.parse import unquote

from service.json_parser import JsonParser
from service.routes.oip.infer import InferForm
from service.routes.openrtb import PATH, OpenrtbForm
from service.scoring.answer import Translated
from service.scoring.deployment import Deployment
from service.telemetry.metrics import Metrics


class Forms:
    """All of them."""

    def __init__(self, metrics: Metrics, max_candidates: int) -> None:
        """`max_candidates`: of one request."""
        parser = JsonParser(max_candidates)
        self._openrtb = OpenrtbForm(parser, metrics, max_candidates)
        self._infer = InferForm(parser, max_candidates)

    def translate(
        self, deployment: Deployment, path: str, json_length: bytes | None, request_id: str, body: bytes
    ) -> Translated:
        """Return the scoring requests that a request makes: see `Translate`."""
        if path == PATH:
            return self._openrtb.translate(deployment, request_id, body)
        return self._infer.translate(deployment, unquote(path), json_length, request_id, body)
