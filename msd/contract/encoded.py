"""The vector of a text that a request brought, as services keep and share it: bound to its encoder and to its text.

Knows neither how a text becomes a vector nor where vectors are kept.
"""

import hashlib
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32
_FORMAT = b"\1"
_SUM = struct.Struct("<I")
Vector = NDArray[np.float16]


def encoder_identity(encoder_sha256: str, tokenizer_sha256: str) -> str:
    """What a text's vector depends on besides the text: the hashes of both files. Bundles that share them share
    vectors."""
    return hashlib.sha256(f"{encoder_sha256}{tokenizer_sha256}".encode()).hexdigest()


def text_key(identity: str, text: str) -> bytes:
    """[32] bytes that stand for one text and one encoder."""
    return hashlib.sha256(f"{identity}\0{text}".encode()).digest()


def pack_vector(key: bytes, vector: Vector) -> bytes:
    """The vector with its key before it and a checksum behind."""
    content = _FORMAT + key + vector.astype("<f2").tobytes()
    return content + _SUM.pack(zlib.crc32(content))


def unpack_vector(key: bytes, width: int, value: bytes) -> Vector | None:
    """The vector [width] that `pack_vector` packed under this very key; None for anything else, and for what is not
    finite."""
    end = len(_FORMAT) + KEY_BYTES + 2 * width
    if len(value) != end + _SUM.size or not value.startswith(_FORMAT + key):
        return None
    if zlib.crc32(value[:end]) != _SUM.unpack(value[end:])[0]:
        return None
    vector = np.frombuffer(value, "<f2", width, len(_FORMAT) + KEY_BYTES)
    return vector.astype(np.float16) if np.isfinite(vector).all() else None
