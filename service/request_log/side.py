"""The log's writer as the supervisor starts it. Imports nothing that it needs."""

from importlib.util import find_spec

from msd.contract.errors import MsdError
from service.side_process import SideSpec


def log_side() -> SideSpec:
    """The writer. Raises MsdError where it could not write."""
    if find_spec("pyarrow") is None:
        raise MsdError("MSD_LOG_DIR needs pyarrow, which is not installed: pip install 'msd-ctr[log]'")
    return SideSpec("log", "service.request_log.process")
