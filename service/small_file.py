"""Files of settings and keys, which are small: one that is not is some other file. Does not know what is in them."""

from pathlib import Path

from msd.contract.errors import MsdError


def read_small(path: Path, limit: int, refused: type[MsdError], advice: str = "") -> bytes:
    """All of a file of at most so many bytes. Raises `refused`, with the advice where the file cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise refused(f"{path}: {error.strerror or error}{advice}") from None
    if len(content) > limit:
        raise refused(f"{path}: larger than {limit} bytes")
    return content
