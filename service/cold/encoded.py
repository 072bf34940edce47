"""Format of a cold ad's vector as services cache and share it: bound to its encoder and text. Knows neither how texts
are encoded nor where vectors are kept.
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


def text_key(identity: str, text: str) -> bytes:
    """Return the 32-byte key of a text and an encoder."""
    return hashlib.sha256(f"{identity}\0{text}".encode()).digest()


def pack_vector(key: bytes, vector: Vector) -> bytes:
    """Return the key, the vector and a checksum."""
    content = _FORMAT + key + vector.astype("<f2").tobytes()
    return content + _SUM.pack(zlib.crc32(content))


def unpack_vector(key: bytes, width: int, value: bytes) -> Vector | None:
    """Return the vector [width] that `pack_vector` packed under this key; None for anything else, and for a non-finite
    one."""
    end = len(_FORMAT) + KEY_BYTES + 2 * width
    if len(value) != end + _SUM.size or not value.startswith(_FORMAT + key):
        return None
    if zlib.crc32(value[:end]) != _SUM.unpack(value[end:])[0]:
        return None
    vector = np.frombuffer(value, "<f2", width, len(_FORMAT) + KEY_BYTES)
    return vector.astype(np.float16) if np.isfinite(vector).all() else None
