"""Fixed limits of the service, which no setting changes. Read when a part is made."""

HEAD_TIMEOUT_S = 10.0
"""For a request's head, and for the TLS handshake."""
BODY_TIMEOUT_S = 5.0
"""For a request's body; beyond it, the request gets 408."""
REPLY_TIMEOUT_S = 30.0
"""For a client to read its replies; beyond it, the connection is closed."""
MAX_HEAD_BYTES = 2**15
"""Of a request; larger heads get 431, and the connection is closed."""
INFLIGHT_BYTES = 2**26
"""Of requests that are incomplete or unanswered, over all connections; at least one full body. Beyond it, the oldest
incomplete ones get 429 and are disconnected."""
MAX_QUEUED_ROWS = 20_000
"""Queued candidates per scoring thread; at least one full request. Beyond it, requests get 429."""
MAX_DEADLINE_MS = 60_000
"""Longest deadline that a caller may set; longer ones get 400."""
HANG_S = 20.0
"""Without progress of the event loop, or of all scoring threads, until the probes answer 503."""
END_S = 10.0
"""After the listener closed, and since the event loop's latest progress, until a hanging process is ended: more than
the bounded waits of an orderly shutdown together."""
MAX_EVENTS = 1_000
"""In one batch; more get 413."""
MAX_ITEMS = 1_000
"""Of the live catalogue in one batch or list; more get 413."""
MAX_ITEM_BYTES = 2**16
"""Of one item's features, text and knowledge, as JSON; a larger one gets 422."""
MAX_JSON_PARTS = 20_000
"""Keys and values in a body that Python parses, or 10 per candidate that a request may have; more get 413."""
EVENT_HORIZON_S = 86_400.0
"""Minimum time for which a repeated event is recognised as a duplicate."""
ENCODER_WAIT_S = 0.05
"""Longest wait of a request for vectors of texts, at most half of its remaining time."""
ENCODER_QUEUE = 1_000
"""Texts queued for the encoder; beyond it, texts are dropped."""
MAX_REMEMBERED = 500_000
"""Candidates of logged requests that are remembered until they are shown, with 8 for each request: about 45 MB."""
LOG_MAX_AGE_S = 30 * 86_400.0
"""For which request log files are kept."""
LOG_FLUSH_S = 60.0
"""Longest time until a record is written to its file."""
