"""Trust in bundles: any complete bundle, or only those signed with a trusted key.

A signature is Ed25519 (RFC 8032) over the bytes of the manifest, which has the hash of every other file.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from msd.contract.bundle import SIGNATURE, Bundle, Pause, Proof, open_bundle
from msd.contract.errors import BundleError, MsdError
from msd.contract.files import open_regular, read_small

_SIGNATURE_BYTES = 64
MAX_KEY_BYTES = 2**16
"""Maximum size of a file of keys."""
_MAX_KEYS = 100
_END = b"-----END PUBLIC KEY-----"


class TrustError(MsdError):
    """A key to trust, or to sign with, is unavailable."""


class Trust:
    """The trusted keys; without a place, no signature is required."""

    def __init__(self, place: Path | None) -> None:
        """`place` is a file of public keys (PEM, one or more), or a folder of such files. Raises TrustError."""
        self._keys = None if place is None else _public_keys(place)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the trust of `MSD_TRUSTED_KEYS`, for commands without other settings. Raises TrustError."""
        return cls(Path(place) if (place := environ.get("MSD_TRUSTED_KEYS")) else None)

    def open(self, folder: Path, *, rows: bool = True, pause: Pause = lambda: None) -> Bundle:
        """As `open_bundle`. If signatures are required, nothing is read before one is verified, and all files are
        hashed, whatever was verified before."""
        return open_bundle(folder, rows=rows, proof=self.proof, pause=pause)

    @property
    def proof(self) -> Proof | None:
        """Return the verifier of a manifest's bytes; None if no signature is required."""
        return None if self._keys is None else self._prove

    def _prove(self, manifest: Path, content: bytes) -> None:
        """Raise BundleError if no trusted key has signed these bytes."""
        signature = _signature_of(manifest.parent)
        if not any(_has_signed(key, signature, content) for key in self._keys or ()):
            raise BundleError(
                f"{manifest.parent}: its signature matches no key of MSD_TRUSTED_KEYS, or it was changed since; sign it"
                " again if it is yours, otherwise do not use it"
            )


def _signature_of(folder: Path) -> bytes:
    path = folder / SIGNATURE
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            signature = file.read(_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(
            f"{folder}: is not signed ({SIGNATURE} is missing), but MSD_TRUSTED_KEYS requires it: use `msd sign`"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    if len(signature) != _SIGNATURE_BYTES:
        raise BundleError(f"{path}: not a signature; expected {_SIGNATURE_BYTES} bytes")
    return signature


def _has_signed(key: Any, signature: bytes, content: bytes) -> bool:  # noqa: ANN401 - the module is loaded later
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _public_keys(place: Path) -> Sequence[Any]:
    paths = sorted(place.glob("*.pem")) if place.is_dir() else [place]
    if not paths:
        raise TrustError(f"MSD_TRUSTED_KEYS={place}: a folder without any *.pem; put public keys there")
    keys = [_public_key(path, block) for path in paths[:_MAX_KEYS] for block in _blocks(path)]
    if not 0 < len(keys) <= _MAX_KEYS:
        raise TrustError(f"MSD_TRUSTED_KEYS={place}: holds {len(keys)} keys; expected 1 to {_MAX_KEYS}")
    return keys


def _blocks(path: Path) -> list[bytes]:
    parts = read_small(path, MAX_KEY_BYTES, TrustError).split(_END)
    if parts.pop().strip():
        raise TrustError(f"{path}: not a file of public keys (PEM)")
    return [part + _END + b"\n" for part in parts]


def _public_key(path: Path, block: bytes) -> Any:  # noqa: ANN401
    ed25519, serialization = cryptography_modules()
    try:
        key = serialization.load_pem_public_key(block.lstrip())
    except Exception as error:  # of several types, depending on the fault
        raise TrustError(f"{path}: holds no public key (PEM): {type(error).__name__}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise TrustError(f"{path}: not an Ed25519 key")
    return key


def cryptography_modules() -> tuple[Any, Any]:
    """Return the modules of Ed25519 and key formats. Raises TrustError if they are not installed."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise TrustError("signatures need the module 'cryptography': pip install 'msd-ctr[sign]'") from error
    return ed25519, serialization
