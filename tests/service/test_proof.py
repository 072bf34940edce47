"""What serves is what is proved: with a core that is broken in any of these ways, no service becomes ready."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import native
from msd.contract.bundle import GOLDENS, Bundle, open_bundle
from msd.contract.errors import BundleError
from msd.contract.golden import read_goldens, write_goldens
from service.deployment.proof import Pace, prove
from service.deployment.readiness import why_not_proved
from service.scoring.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import reseal

ROOT = Path(__file__).parents[2]
SWITCH = """
#include <cstdlib>
#include <cstring>
inline bool is_broken(const char* how) {
  const char* const broken = std::getenv("BROKEN");
  return broken && !std::strcmp(broken, how);
}
"""
# By what breaks: the header, a text that occurs once in it, what stands there if it is broken, and why it is refused.
BROKEN = {
    "lookup": ("row_file.hpp", "load<uint64_t>(own + at) != words[at / kWord]", "false", "differs by"),
    "constant": ("schema.hpp", "std::min(impressions, kMostShown)", "std::min(impressions, 7.0)", "differs by"),
    "column": ("columns.hpp", "static_cast<float>(shown[k]);", "static_cast<float>(age[k]);", "differs by"),
    "history": ("tensors.hpp", "known > length ? known - length : 0;", "known > 1;", "differs by"),
    "tail": ("tensors.hpp", "half::widen_one(load<uint16_t>(head + 6))", "0.0f", "differs by"),
    "encoding": ("features.hpp", "standardise(field, number, ufuncs)", "static_cast<float>(number)", "differs by"),
    "fold": (
        "live.hpp",
        "{head.impressions, head.clicks, head.as_of}",
        "{head.impressions, 0.0, head.as_of}",
        "differs by",
    ),
    "price": ("pricing.hpp", "columns[0].values[k]", "columns.back().values[k]", "has the eCPM ["),
    "order": ("pricing.hpp", "ecpm[one] > ecpm[other]", "ecpm[one] < ecpm[other]", "is not ranked"),
    "correction": (
        "correction.hpp",
        "odds * slope - offset",
        "odds * slope + offset",
        "under a correction of calibration",
    ),
    "place": ("tensors.hpp", "(slot_ - 1) * served.size()", "(request_->slot - 1) * served.size()", "has the page ["),
    "segment": ("correction.hpp", "moved += one.shift", "moved -= one.shift", "under a correction of calibration"),
}
SCRIPT = """
import asyncio, json, os, sys
import native
from msd.contract.bundle import open_bundle
from service.deployment.readiness import why_not_proved
from service.scoring.model import load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
bundle = open_bundle(__import__("pathlib").Path(sys.argv[1]))
model, found = load_model(bundle, Settings(bundle=bundle.folder), Metrics()), {}
for how in sys.argv[2:]:
    os.environ["BROKEN"] = how
    found[how] = asyncio.run(why_not_proved([model], 50, "model"))
print(json.dumps({"core": native.core.__file__, "found": found}))
"""


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a core that the environment breaks while it runs."""
    folder = tmp_path_factory.mktemp("breakable")
    shutil.copytree(ROOT / "native", folder / "native", ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    changes = [
        (f"core/{header}", text, f'(is_broken("{how}") ? X : Y)', broken)
        for how, (header, text, broken, _) in BROKEN.items()
    ]
    for name, text, switch, broken in changes:
        path = folder / "native" / name
        source = path.read_text("utf-8")
        assert source.count(text) == 1, text
        end = ";" * text.endswith(";")
        own = [one.removesuffix(";") for one in (broken, text)]
        if text.startswith("{"):
            own = [f"Counts{one}" for one in own]
        path.write_text(source.replace(text, switch.replace("X", own[0]).replace("Y", own[1]) + end), "utf-8")
    first = folder / "native" / "core" / "bytes.hpp"
    first.write_text(first.read_text("utf-8").replace("#pragma once\n", f"#pragma once\n{SWITCH}", 1), "utf-8")
    build = folder / "native" / "build.py"
    build.write_text(build.read_text("utf-8").replace('"-O3"', '"-O0"'), "utf-8")
    subprocess.run([sys.executable, "-m", "native.build"], cwd=folder, check=True)
    return folder


def test_broken_core_is_refused_whatever_is_broken(breakable: Path, bundle: Bundle) -> None:
    command = [sys.executable, "-P", "-c", SCRIPT, str(bundle.folder), "", *BROKEN]
    ended = subprocess.run(command, env={"PYTHONPATH": f"{breakable}:{ROOT}"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    found = told["found"]

    assert told["core"].startswith(str(breakable))
    assert found.pop("") == ""
    assert {how: reason for how, (*_, reason) in BROKEN.items() if reason not in found[how]} == {}, found
    assert all(reason.startswith("golden ") for reason in found.values()), found


@pytest.fixture
def model(bundle: Bundle) -> Model:
    return load_model(bundle, Settings(bundle=bundle.folder), Metrics())


def raising(*_: object) -> None:
    raise ZeroDivisionError("broken")


@pytest.mark.parametrize("part", ["Frame", "OfflineScorer"])
def test_core_that_raises_is_refused(part: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.core, part, raising)
    with pytest.raises(ZeroDivisionError):
        prove(model, 50, Pace())
    assert asyncio.run(why_not_proved([model], 50, "model")) == "the model failed on a golden; the log has the reason"


@pytest.mark.parametrize("what", ["bid", "live event"])
def test_goldens_that_prove_too_little_are_refused(what: str, copied_bundle: Path) -> None:
    path = copied_bundle / GOLDENS
    goldens = [golden for golden in read_goldens(path) if not golden.events]
    if what == "bid":
        goldens = [golden for golden in read_goldens(path) if "bid" not in golden.request["candidates"]]
    write_goldens(path, goldens)
    reseal(copied_bundle)
    model = load_model(open_bundle(copied_bundle), Settings(bundle=copied_bundle), Metrics())
    with pytest.raises(
        BundleError, match=f"holds no golden with a {what}, to verify the service with; export it again"
    ):
        prove(model, 50, Pace())
