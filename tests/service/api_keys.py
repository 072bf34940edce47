"""API keys of each kind, and the file that lists them."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.http.keys import KeyEntry, KeyScope, new_key

_PAST, _FUTURE = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


_WANTED: dict[str, tuple[tuple[KeyScope, ...], datetime | None]] = {
    "ads": (("score", "events"), None),
    "ads-next": (("score",), _FUTURE),
    "ads-old": (("score",), _PAST),
    "prometheus": (("metrics",), None),
    "ops": (("admin",), None),
}


_MADE: dict[str, tuple[str, KeyEntry]] = {name: new_key(name, *given) for name, given in _WANTED.items()}


KEYS = {name: key for name, (key, _) in _MADE.items()}


def write_keys(path: Path, *names: str) -> None:
    """The file of some of the keys, in one step."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"keys": [_MADE[name][1].model_dump(mode="json") for name in names]}))
    os.replace(temporary, path)
