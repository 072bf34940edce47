"""Whether OpenVINO offers bf16 on this machine: what tests expect depends on it."""

import sys


def has_bf16() -> bool:
    """Asks OpenVINO, which would report its import to its maker, if the package for that were there."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
