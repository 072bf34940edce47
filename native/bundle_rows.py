"""What requests become of a bundle's rows in the core, without a model: what they ask for, and their tensors."""

import json
from typing import Any, Self

from msd.contract.bundle import Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, encode_row, golden_rows
from msd.contract.pricing import PRICED
from msd.contract.row_file import RowFile
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Tensors
from native import core
from native.layout import AskedRequest, core_model, core_rows, core_schema, new_tensors
from native.live_state import AskLive, GoldenLive

MAX_CANDIDATES = 256


class BundleRows:
    """Rows of users and items. For one thread."""

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Open a bundle's rows. Raises BundleError."""
        return cls(bundle.schema, RowFile.of(bundle, "user"), RowFile.of(bundle, "item"))

    def __init__(self, schema: FeatureSchema, users: RowFile, items: RowFile) -> None:
        self.schema = schema
        # The core reads them as long as they are open.
        self._users, self._items = users, items
        self.form = core_schema(schema, {"user": users.codec, "item": items.codec})
        self.sources = core_rows(users.memory()), core_rows(items.memory())
        self._tensors = new_tensors(schema, MAX_CANDIDATES)
        self._frame = core.Frame(self.form, core_model("", PRICED, 1.0), self._tensors, MAX_CANDIDATES)

    def golden(self, request: dict[str, Any]) -> Golden:
        """Return a request with its rows, still without scores. Raises BundleError for one that the core refuses."""
        if not self._frame.read(json.dumps(request).encode(), MAX_CANDIDATES):
            raise BundleError(f"the native core refuses the request {request}")
        asked = AskedRequest.of(self._frame.asked)
        user = self._users.raw([asked.user_id])[0]
        wanted = asked.wanted(self._users.codec.unpack([user]))
        found = zip(wanted, self._items.raw(wanted), strict=True)
        return Golden(
            request=request,
            user=None if user is None else encode_row(user),
            items={item_id: encode_row(row) for item_id, row in found if row is not None},
            expected={},
        )

    def tensors(self, golden: Golden) -> Tensors:
        """Return the tensors of a golden's request after its live events, one row per candidate. Raises BundleError if
        it has none."""
        body, at = json.dumps(golden.request).encode(), float(golden.request["at"])
        taken = self._frame.take(body, MAX_CANDIDATES, *self.sources, at, live=self.live(golden))
        if taken != core.FillResult.FILLED:
            raise BundleError(f"the native core makes no tensors of the request {golden.request}")
        rows = self._frame.rows[: self._frame.count]
        return {
            name: tensor[rows] if name.startswith("item_") else tensor.copy() for name, tensor in self._tensors.items()
        }

    def live(self, golden: Golden) -> "AskLive | None":
        """Return what tells the core the live states after a golden's events; None if it has none."""
        if not golden.events:
            return None
        own = golden_rows(self._users.codec, self._items.codec, golden)
        return GoldenLive(self.schema, golden.events, golden.request["user_id"], *own).states
