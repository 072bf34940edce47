"""Whether OpenVINO offers bf16 on this machine: what tests expect depends on it."""

import openvino


def has_bf16() -> bool:
    """Asks OpenVINO."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
