"""The Dockerfile's stages, and the files in its build context."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
    "wheel"
]["packages"]


def instructions() -> list[str]:
    """Return the Dockerfile's instructions, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    return [" ".join(line.split()) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def stages() -> dict[str, tuple[str, list[str]]]:
    """Return each stage's base and its own instructions."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in instructions():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif found:
            found[next(reversed(found))][1].append(line)
    return found


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_target_installs_nothing_and_has_no_privileges(target: str) -> None:
    base, own = stages()[target]

    assert base == "runtime"
    assert own[-1] == "USER 10001:10001"
    assert [line for line in own if line.startswith("COPY")] == [
        f"COPY --from={target}-packages /opt/msd /opt/msd",
        "COPY --from=product /opt/msd /opt/msd",
    ]
    assert not [line for line in own if line.startswith(("RUN", "ADD"))]
    assert list(stages())[-1] == "cpu"


def test_both_targets_have_command_health_check_and_labels() -> None:
    base, own = stages()["runtime"]
    labels = next(line for line in own if line.startswith("LABEL"))

    assert base == "${PYTHON}"
    assert {'ENTRYPOINT ["msd"]', 'CMD ["serve"]', "EXPOSE 8080", "STOPSIGNAL SIGTERM"} <= set(own)
    assert any(line.startswith("HEALTHCHECK") and "service.probe" in line for line in own)
    for name in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{name}=" in labels
    # All that is run in it names the user.
    assert [line.split()[1] for line in own if line.startswith("RUN")] == ["groupadd"]


def test_packages_are_installed_by_their_hashes_and_never_compiled() -> None:
    installs = [line for line in instructions() if " install " in line and "/opt/tools/bin/pip" in line]
    hashed = [line for line in installs if "--require-hashes" in line]

    assert len(hashed) == 3
    assert all("--only-binary :all:" in line and "--no-deps" in line for line in hashed)
    # The others know no index: they install what was built here.
    assert all("--no-index" in line for line in instructions() if "/wheels" in line)


def test_compiler_is_not_in_the_image() -> None:
    with_compiler = [name for name, (_, own) in stages().items() if any("g++" in line for line in own)]

    assert with_compiler == ["product"]
    # A wheel without the native core is not named for a platform.
    assert any("/wheels/*-linux_*.whl" in line for line in stages()["product"][1])


def test_context_is_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    first, *rules = [line for line in lines if line and not line.startswith("#")]
    copies = [line.split()[1:-1] for line in instructions() if line.startswith("COPY ") and "--from=" not in line]
    copied = {
        re.sub(r"^requirements/.*", "requirements", source.strip("/")) for sources in copies for source in sources
    }

    assert first == "*"
    assert {rule.strip("!/") for rule in rules if rule.startswith("!")} == copied
    assert copied >= set(PACKAGES)
    assert [rule for rule in rules if rule[0] != "!"] == ["native/_core.*", "**/__pycache__/", "**/*.py[cod]"]
