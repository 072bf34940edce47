"""The CPU's instruction sets, of what a kernel writes about its CPUs."""

from pathlib import Path

import pytest

from msd.contract.instructions import adds_int8_exactly, cpu_instructions

X86 = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu sse4_2 avx2 amx_bf16 avx512_vnni avx512f\nflags : avx2\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd crc32 asimddp\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86, ("avx2", "avx512f", "avx512_vnni", "amx_bf16")),
        (ARM, ("asimd", "asimddp")),
        ("flags\t: avx2-like amx\n", ()),
        ("", ()),
    ],
)
def test_names_relevant_instructions(text: str, found: tuple[str, ...], tmp_path: Path) -> None:
    assert cpu_instructions(tmp_path / "cpuinfo") == ()
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_instructions(tmp_path / "cpuinfo") == found


@pytest.mark.parametrize(
    ("instructions", "exact"),
    [
        (("avx2", "avx512f"), False),
        (("avx2", "avx_vnni"), True),
        (("avx2", "avx512f", "avx512_vnni"), True),
        (("asimd",), True),
    ],
)
def test_x86_needs_vnni_to_add_exactly(instructions: tuple[str, ...], exact: bool) -> None:
    assert adds_int8_exactly(instructions) == exact
