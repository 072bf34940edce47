"""Pairs of keys for signatures, as files."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PEM = serialization.Encoding.PEM


class Keys:
    def __init__(self, folder: Path, name: str = "mine", encryption: Any = None) -> None:  # noqa: ANN401
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}-secret.key", folder / f"{name}.pem"
        encryption = encryption or serialization.NoEncryption()
        self.private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
        self.public.write_bytes(key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
