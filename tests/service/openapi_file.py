"""docs/openapi.json: what a service with all its routes says of itself, without what only its bundle says.

`python -m tests.service.openapi_file` writes it.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import move
from typing import Any

from tests.bundles.factory import build_bundle
from tests.service.live import ROOT, LiveService, live_service
from tests.service.test_guard import KEYS, write_keys
from tests.service.test_swap import point

PUBLISHED = ROOT / "docs" / "openapi.json"


@contextmanager
def whole_service(folder: Path) -> Iterator[LiveService]:
    """A service with every route, over a folder of bundles."""
    bundles = folder / "bundles"
    bundles.mkdir()
    move(build_bundle(folder / "made").folder, bundles / "a")
    point(bundles, "a")
    write_keys(folder / "keys.json", "ads", "ops")
    with live_service(
        bundles,
        folder,
        keys_file=folder / "keys.json",
        live="on",
        state_dir=folder / "states",
    ) as running:
        yield running


def published(service: LiveService) -> str:
    """The document as it is in the documentation."""
    with service.client(headers={"X-Api-Key": KEYS["ads"]}) as client:
        document: dict[str, Any] = client.get("/openapi.json").json()
    content = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
    del content["examples"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "version":
                    parameter["schema"].pop("enum", None)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, whole_service(Path(made)) as running:
        PUBLISHED.write_text(published(running), "utf-8")
