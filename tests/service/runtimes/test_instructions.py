"""The CPU's instruction sets, of what a kernel writes about its CPUs."""

from pathlib import Path

import pytest

from service.runtimes.instructions import KNOWN, cpu_instructions

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
def test_it_names_those_that_decide(text: str, found: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)

    assert cpu_instructions(tmp_path / "cpuinfo") == found


def test_where_nothing_tells_there_are_none(tmp_path: Path) -> None:
    assert cpu_instructions(tmp_path / "cpuinfo") == ()


def test_of_this_machine_it_names_known_ones_alone() -> None:
    assert set(cpu_instructions()) <= set(KNOWN)
