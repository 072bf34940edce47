"""A trace of a share of the scoring requests, sent to an OpenTelemetry collector; nothing waits for it."""
