"""Our names stay ours: other distributions that install the same modules would silently stand in for them."""

import fnmatch
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
# Written in two parts each, so that this file does not find itself.
FOREIGN = re.compile(
    "|".join(
        [
            "pypi" r"\.org",
            "python" r"hosted\.org",
            "download" r"\.pytorch\.org",
            "test" r"pypi",
            r"(?<![\w./])/" r"(work|root|home|Users)/",
        ]
    )
)


def files() -> Iterator[Path]:
    """The project's own files: all but what git ignores."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").split()] + [".git"]
    folders = [ROOT]
    while folders:
        for path in folders.pop().iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield path


def test_the_packages_are_known() -> None:
    ours = ["loadtest", "model_export", "msd", "msd_client", "native", "onnx_factorise", "operations", "service"]
    assert sorted(PACKAGES) == ours
    assert PROJECT["project"]["name"] == "msd-ctr"
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]
    assert PROJECT["tool"]["pytest"]["ini_options"]["pythonpath"] == ["."]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_has_our_names(package: str) -> None:
    """Our own is listed where it is installed from a wheel, and not where it is installed as a checkout."""
    assert set(packages_distributions().get(package, [])) <= {"msd-ctr"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_imported_from_this_checkout(package: str) -> None:
    spec = importlib.util.find_spec(package)

    assert spec
    assert spec.origin
    assert Path(spec.origin) == ROOT / package / "__init__.py"


def test_every_folder_of_modules_is_a_package_and_every_file_has_a_subject() -> None:
    """A folder without __init__.py loses to a package of the same name anywhere on the path."""
    modules = [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]

    assert len(modules) > 50
    assert all((path.parent / "__init__.py").is_file() for path in modules)
    # Folders below it are found by its own path.
    assert (ROOT / "tests/__init__.py").is_file()
    assert not [path for path in files() if path.stem in ("utils", "util", "helpers", "misc", "common")]


def test_no_file_names_a_package_index_or_a_place_on_one_machine() -> None:
    found = []
    for path in files():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if FOREIGN.search(line)]

    assert not found


@pytest.mark.parametrize(
    ("line", "is_foreign"),
    [
        ("https://" + "pypi" + ".org/simple", True),
        ("--index-url https://download" + ".pytorch.org/whl/cpu", True),
        ("cd /" + "work/main", True),
        ("'/" + "root/.cache'", True),
        ("artwork/x and ./home/y and runs/tmp/z", False),
        ("GET /health/ready", False),
    ],
)
def test_foreign_addresses_are_recognised(line: str, is_foreign: bool) -> None:
    assert bool(FOREIGN.search(line)) == is_foreign
