"""A bundle's text encoder: its tokenizer, its graph, and the proof that here, too, they make the vectors of the export.

The only file that needs `tokenizers` (extra `encode`). Knows texts and vectors; not when to encode, nor for whom.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import ENCODER, TOKENIZER, Bundle
from msd.contract.errors import BundleError
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from service.runtimes.onnxruntime import open_session
from service.runtimes.runtime import RuntimeRefused

_INPUTS, _OUTPUT = {"input_ids", "attention_mask"}, "semantic"


def can_tokenise() -> bool:
    """Whether this installation can encode texts at all."""
    return find_spec("tokenizers") is not None


class TextEncoder:
    """Encodes texts as the bundle's export did, on one thread."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises BundleError or RuntimeRefused when the bundle has none, or one that does not prove itself here."""
        # Or the tokenizer has threads of its own, as many as there are cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise RuntimeRefused("texts need a tokenizer: pip install 'msd-ctr[encode]'") from None
        record = bundle.manifest.encoder
        if record is None or bundle.encoder_identity is None:
            raise BundleError(f"{bundle.folder}: has no encoder that its manifest vouches for; export it again")
        if record.precision == "int8" and not adds_int8_exactly(cpu_instructions()):
            raise RuntimeRefused(f"{bundle.path(ENCODER)}: is quantised for CPUs with VNNI, which this one has not")
        self.width = bundle.schema.semantic_width("item")
        self._path = bundle.path(ENCODER)
        try:
            self._tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        except Exception as error:  # tokenizers raises nothing more special
            raise BundleError(f"{bundle.path(TOKENIZER)}: is no tokenizer: {error}") from None
        self._session = open_session(self._path, "cpu", 1)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if {one.name for one in inputs} != _INPUTS or _OUTPUT not in {one.name for one in outputs}:
            raise BundleError(f"{self._path}: is no encoder of texts: it needs {sorted(_INPUTS)} and gives {_OUTPUT!r}")
        for probe in record.probes:
            found = self.encode(self.tokenise([probe.text]))[0]
            difference = float(np.abs(found - np.array(probe.vector)).max())
            # And a step of fp16, to which vectors are rounded.
            allowed = record.tolerance + float(np.spacing(np.abs(found).max()))
            if not difference <= allowed:
                raise BundleError(
                    f"{self._path}: a vector differs by {difference:.3g} from what the manifest expects"
                    f" (at most {allowed:.3g})"
                )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to as many as the student reads."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float16]:
        """Token ids of n texts → their vectors [n, width], as rows hold them; shorter ones are padded to the longest.

        Raises BundleError when the graph fails, or gives what no row may hold.
        """
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), np.int64)
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        ids[mask == 1] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        try:
            (vectors,) = self._session.run([_OUTPUT], {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            raise BundleError(f"{self._path}: failed on a text: {error}") from None
        if vectors.shape != (len(rows), self.width):
            raise BundleError(f"{self._path}: gives vectors {vectors.shape[1:]}, the schema takes {self.width} numbers")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            rounded: NDArray[np.float16] = vectors.astype(np.float16)
        if not np.isfinite(rounded).all():
            raise BundleError(f"{self._path}: gives numbers that are not finite")
        return rounded
