"""Signs a bundle, a delta or a catalogue after verifying it in full. `service.trust` verifies signatures."""

from pathlib import Path
from typing import Any

from msd.contract.bundle import MANIFEST, SIGNATURE, open_bundle
from msd.contract.errors import BundleError
from msd.contract.files import read_small, write_bytes_atomic
from operations.catalogue.manifest import CATALOGUE, open_catalogue
from operations.delta import DELTA, open_delta
from service.trust import MAX_KEY_BYTES, TrustError, cryptography_modules


def sign(folder: Path, manifest: str, private_key: Path) -> Path:
    """Sign the manifest of a verified folder, and return the path of the signature. Raises TrustError."""
    key = _private_key(private_key)
    path = folder / SIGNATURE
    write_bytes_atomic(path, key.sign((folder / manifest).read_bytes()))
    return path


def verified_manifest(folder: Path) -> str:
    """Verify a bundle, a delta or a catalogue in full, and return its manifest's name. Raises BundleError or
    CatalogueError."""
    if (folder / MANIFEST).exists():
        open_bundle(folder, rows=True)
        return MANIFEST
    if (folder / CATALOGUE).exists():
        open_catalogue(folder)
        return CATALOGUE
    if not (folder / DELTA).exists():
        raise BundleError(
            f"{folder}: is neither a bundle ({MANIFEST} is missing) nor a delta ({DELTA} is missing) nor a catalogue"
            f" ({CATALOGUE} is missing)"
        )
    open_delta(folder)
    return DELTA


def _private_key(path: Path) -> Any:  # noqa: ANN401
    ed25519, serialization = cryptography_modules()
    content = read_small(path, MAX_KEY_BYTES, TrustError)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise TrustError(f"{path}: the key is encrypted; decrypt it first (openssl pkey)") from None
    except Exception as error:
        raise TrustError(f"{path}: holds no private key (PEM): {type(error).__name__}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise TrustError(f"{path}: not an Ed25519 key; make one with: openssl genpkey -algorithm ed25519")
    return key
