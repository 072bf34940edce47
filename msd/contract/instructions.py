"""The CPU's instruction sets for matrix products, as the kernel reports them."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where all detection reads from; tests put another file in its place."""
# From the oldest to the newest: x86, then Arm.
KNOWN = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)


def cpu_instructions(cpuinfo: Path | None = None) -> tuple[str, ...]:
    """Return those of `KNOWN` that the first CPU of `cpuinfo`, or `CPUINFO`, has; empty if it does not list them."""
    try:
        lines = (cpuinfo or CPUINFO).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = next(
        (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return tuple(one for one in KNOWN if one in flags)


def adds_int8_exactly(instructions: tuple[str, ...]) -> bool:
    """Return whether int8 products are summed exactly: x86 without VNNI saturates sums of two at 16 bits."""
    return "avx2" not in instructions or bool({"avx_vnni", "avx512_vnni"} & set(instructions))
