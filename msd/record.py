"""A step's record in its folder, read with a clear error for every fault. Knows no record's fields."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from msd.contract.errors import MsdError, plain_words

Record = TypeVar("Record", bound=BaseModel)


def read_record(
    path: Path, kind: type[Record], format_: int, absent: str, remedy: str, error: type[MsdError]
) -> Record:
    """Return the record in a JSON file, which must have this `format`.

    Raises `error`: `absent` for the folder if there is no such file, otherwise the fault and the `remedy`.
    """
    try:
        document = json.loads(path.read_bytes())
        # Checked first, because another format may have other fields.
        found = document.get("format") if isinstance(document, dict) else None
        if found != format_:
            raise error(f"{path}: format {found!r}, this release reads {format_}; {remedy}")
        return kind.model_validate_json(json.dumps(document))
    except OSError:
        raise error(f"{path.parent}: {absent}") from None
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise error(f"{path}: {'.'.join(map(str, first['loc']))}: {plain_words(first['msg'])}; {remedy}") from None
    except (ValueError, RecursionError) as wrong:
        raise error(f"{path}: not JSON ({wrong}); {remedy}") from None
