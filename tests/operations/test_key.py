"""`msd key new`: a key that is printed once, and the entry of the key file that lets it in."""

import hashlib
import json
from pathlib import Path

import pytest

from service.http.keys import KEY_SCOPES, read_keys
from tests.service.live import run_msd


def test_prints_key_and_entry(tmp_path: Path) -> None:
    made = run_msd("key", "new", "--name", "ads", "--scope", "score", "--scope", "events", "--days", "30", "--json")
    document = json.loads(made.stdout)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [document["entry"]]}))
    found = read_keys(tmp_path / "keys.json").find(document["key"].encode())

    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("ads", ["events", "score"])
    assert found.not_after is not None
    lines = run_msd("key", "new", "--name", "ads", "--scope", "admin").stdout.splitlines()
    (key,) = (line.strip() for line in lines if line.startswith("  msd_"))
    (entry,) = (line for line in lines if line.startswith("  {"))
    assert json.loads(entry) == {"name": "ads", "scopes": ["admin"], "sha256": hashlib.sha256(key.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "a b", "--scope", "score"], "error: name: "),
        (["--name", "a", "--scope", "root"], f"expected one of {', '.join(KEY_SCOPES)}"),
    ],
)
def test_rejects_invalid_key_options(arguments: list[str], message: str) -> None:
    ended = run_msd("key", "new", *arguments)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
