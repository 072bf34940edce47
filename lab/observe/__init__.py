"""A live run that proves that dashboards and rules return data."""
