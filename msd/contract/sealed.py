"""Manifests with their own hash, so that changes and damage are detected. Does not know their content."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import BaseModel, ValidationError

from msd.contract.errors import MsdError, first_fault


class SelfHashed(BaseModel):
    """A manifest whose last field is `sha256`: of its JSON with that field empty."""

    if TYPE_CHECKING:  # each form declares it, as its last field
        sha256: str

    def digest(self) -> str:
        """Return the expected `sha256`."""
        return hashlib.sha256(self.model_copy(update={"sha256": ""}).model_dump_json().encode()).hexdigest()

    def sealed(self) -> Self:
        """Return the manifest with its hash."""
        return self.model_copy(update={"sha256": self.digest()})


M = TypeVar("M", bound=SelfHashed)


def parse_sealed(path: Path, content: bytes, form: type[M], error: type[MsdError]) -> M:
    """Parse a manifest. Raises `error`, naming the file, if it is invalid or was changed."""
    try:
        manifest = form.model_validate_json(content)
    except ValidationError as invalid:
        raise error(f"{path}: {first_fault(invalid)}") from None
    if manifest.sha256 != manifest.digest():
        raise error(f"{path}: its contents do not match its own hash; it was changed or damaged")
    return manifest
