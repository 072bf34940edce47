"""Logged BidRequests → columns, by the same functions of the contract that the service uses."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from msd.contract.encode import Value
from msd.contract.openrtb import Identity, context_of, identity_of, impressions_of
from msd.contract.request import InvalidRequest, RequestError, load_json
from msd.contract.schema import ValueField
from msd.dataset.column import FEATURE_TYPES, read_ids
from msd.dataset.config import OpenrtbConfig
from msd.dataset.table import Table

WITHOUT_CONSENT, WITHOUT_USER = "events_without_consent", "events_without_user_id"
UNFIT = "mapped_values_of_another_type"


def read_bid_requests(
    table: Table, config: OpenrtbConfig, fields: Mapping[str, ValueField]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return user_id and the mapped features by row; and the numbers of anonymous rows by reason, and of values that do
    not fit their features, which are missing.

    user_id is null in anonymous rows and where a problem was noted. Anonymous rows cannot be used: counts and histories
    are by user, and one made-up user would mix many.
    """
    assert config.column is not None, "it is read only where a column is named"
    counts = {WITHOUT_CONSENT: 0, WITHOUT_USER: 0, UNFIT: 0}
    users: list[str | None] = [None] * table.frame.height
    columns: dict[str, list[Any]] = {name: [None] * table.frame.height for name in config.features}
    texts = table.frame.get_column(config.column)
    if texts.dtype != pl.String:
        table.flag_column(config.column, f"has type {texts.dtype}, where the text of a BidRequest's JSON is due")
        texts = pl.Series([None] * table.frame.height, dtype=pl.String)
    else:
        table.flag_missing(config.column)
    for row, (text, imp) in enumerate(zip(texts, read_ids(table, config.imp), strict=True)):
        if text is None or imp is None:
            continue
        try:
            identity, context, unfit = _told(text, imp, config, fields)
        except RequestError as error:
            where = f"{error.field}: " if error.field else ""
            table.note(row, config.column, f"{where}{error.message}", error.field or error.message)
            continue
        counts[UNFIT] += unfit
        if identity.user_id is None:
            counts[WITHOUT_USER if identity.has_consent else WITHOUT_CONSENT] += 1
            continue
        users[row] = identity.user_id
        for name, value in context.items():
            columns[name][row] = list(value) if isinstance(value, tuple) else value
    series = [pl.Series(name, values, FEATURE_TYPES[fields[name].kind]) for name, values in columns.items()]
    return pl.DataFrame([pl.Series("user_id", users, pl.String), *series]), counts


def _told(
    text: str, imp: str, config: OpenrtbConfig, fields: Mapping[str, ValueField]
) -> tuple[Identity, dict[str, Value], int]:
    document = load_json(text.encode())
    if not isinstance(document, dict):
        raise InvalidRequest("should be an object, a BidRequest")
    imps = impressions_of(document)
    if imp not in imps:
        raise InvalidRequest(f"has no impression {imp[:60]!r}", "imp")
    identity = identity_of(config, document)
    context, unfit = context_of(config, fields, document, imps[imp], identity)
    try:
        json.dumps(context, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("a value holds half of a surrogate pair") from None
    return identity, context, len(unfit)
