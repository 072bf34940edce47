"""Which package may import which; and what must not be loaded where it would be slow, or is not installed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = (
    *("msd", "msd_client", "service", "operations", "native", "model_export", "onnx_factorise", "loadtest"),
    *("lab", "tests"),
)
HEAVY = {"torch", "polars", "sklearn", "transformers", "onnx", "scipy", "pandas"}


class Arrow(NamedTuple):
    """What the modules of a package may import: of ours by prefix, and of others all but some, or only some."""

    package: str
    ours: tuple[str, ...]
    forbidden: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    but: tuple[str, ...] = ()
    """Packages within it that have an arrow of their own."""


RANKER = (
    "msd.ranker",
    *("msd.dataset", "msd.student", "msd.contract"),
    *("msd.metrics", "msd.bootstrap", "msd.report", "msd.step", "native"),
)
ARROWS = [
    # pydantic_core is what pydantic parses with: no other package. openvino is loaded where it is asked for alone.
    Arrow("msd.contract", ("msd.contract",), only=frozenset({"numpy", "pydantic", "pydantic_core", "openvino"})),
    Arrow("msd", ("msd",), but=("msd.feedback", "msd.ranker")),
    # Data, then networks, their training, and what is measured of them.
    Arrow("msd.dataset", ("msd.dataset", "msd.metrics", "msd.step", "msd.contract")),
    Arrow("msd.ranker", RANKER),
    Arrow("msd.training", (*RANKER, "msd.training", "msd.checkpoint")),
    Arrow(
        "msd.evaluation",
        (*RANKER, "msd.training", "msd.evaluation", "msd.page"),
    ),
    Arrow(
        "msd.feedback",
        (
            *("msd.feedback", "msd.bootstrap", "msd.metrics", "msd.dataset", "msd.contract"),
            *("msd.page", "msd.report", "msd.step", "native"),
        ),
    ),
    # A copy of the contract in C++, and what tells it of bundles; its build needs no package that is not there yet.
    Arrow("native", ("native", "msd.contract"), only=frozenset({"numpy"})),
    Arrow("service", ("service", "native", "msd.contract"), forbidden=frozenset(HEAVY)),
    # Commands for those who run services, which load none of it.
    Arrow("operations", ("operations", "service", "native", "msd.contract", "msd.report"), forbidden=frozenset(HEAVY)),
    # An init container runs it and nothing else.
    Arrow("operations.fetch", ("operations.fetch", "service.trust", "msd.contract"), only=frozenset({"obstore"})),
    # Ad servers install it alone.
    Arrow("msd_client", ("msd_client",), only=frozenset({"httpx", "httpcore"})),
    Arrow("model_export", ("model_export", "onnx_factorise", "native", "msd")),
    # The pass knows graphs alone: it is to work on anybody's. It runs them by onnxruntime.
    Arrow("onnx_factorise", ("onnx_factorise",), only=frozenset({"numpy", "onnx", "onnxruntime"})),
    Arrow(
        "loadtest",
        ("loadtest", "msd.contract", "msd.free_port", "msd.report"),
        forbidden=frozenset(HEAVY),
        but=("loadtest.session",),
    ),
    # It draws, and writes a page.
    Arrow(
        "loadtest.session",
        ("loadtest", "msd.contract", "msd.page", "msd.report"),
        forbidden=frozenset(HEAVY),
    ),
    # In the checkout alone: nothing that ships may import it.
    # It reads and writes Redis as the service does: its keys, states and batches of events.
    Arrow(
        "lab",
        (
            "lab",
            "loadtest",
            "model_export",
            "msd",
            "native",
            "service.limits",
            "service.live.live_state",
            "service.redis.keys",
        ),
    ),
]
EXEMPT = {"msd.commands"}


def modules_of(package: str) -> dict[str, str]:
    """The source of each module at or below a package, by its name."""
    found = {}
    place = ROOT / package.replace(".", "/")
    for path in sorted(place.rglob("*.py")) or [place.with_suffix(".py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


def imports_of(source: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere in it; relative ones begin with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield ast.unparse(node.args[0]).strip("'\"")


def is_below(name: str, package: str) -> bool:
    """Whether a dotted name is the package or something in it."""
    return name == package or name.startswith(f"{package}.")


def breaches(arrow: Arrow, source: str) -> list[str]:
    """The imports of a module that its package's arrow does not allow."""
    found = []
    for name in imports_of(source):
        top = name.split(".")[0]
        if top in OURS or not top:
            allowed = any(is_below(name, package) for package in arrow.ours)
        elif arrow.only is not None:
            allowed = top in arrow.only or top in sys.stdlib_module_names
        else:
            allowed = top not in arrow.forbidden
        if not allowed:
            found.append(name)
    return found


@pytest.mark.parametrize("arrow", ARROWS, ids=[arrow.package for arrow in ARROWS])
def test_every_import_follows_the_arrows(arrow: Arrow) -> None:
    modules = {
        name: source
        for name, source in modules_of(arrow.package).items()
        if name not in EXEMPT and not any(is_below(name, package) for package in arrow.but)
    }
    found = {name: wrong for name, source in modules.items() if (wrong := breaches(arrow, source))}

    assert len(modules) > 1
    assert not found


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("msd.contract", "import torch"),
        ("msd.contract", "import msd.dataset"),
        ("msd.contract", "from msd import step"),
        ("msd.contract", "from . import rows"),
        ("msd.contract", "def f():\n    import polars"),
        ("msd", "import importlib\nimportlib.import_module('model_export.export')"),
        ("msd", "if True:\n    import loadtest.generator"),
        ("msd", "import tests"),
        ("msd.ranker", "from msd.training.train import predict"),
        ("msd.training", "from msd.evaluation.evaluate import evaluate_models"),
        ("service", "import msd.ranker.model as model"),
        ("service", "from msd.contract_of_old import rows"),
        ("service", "from operations.publish import publish"),
        ("service", "import torch.nn"),
        ("msd_client", "import pydantic"),
        ("onnx_factorise", "from msd.contract.schema import Side"),
        ("lab", "from service.settings import Settings"),
    ],
)
def test_breach_is_found(package: str, line: str) -> None:
    arrow = next(arrow for arrow in ARROWS if arrow.package == package)

    assert len(breaches(arrow, line)) == 1


def loaded_by(*modules: str) -> set[str]:
    """The top-level names of all that a fresh process has loaded once it has imported some modules."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    ("modules", "foreign"),
    [
        (
            ("service.server.app", "service.command", "operations.publish_command"),
            {"model_export", "loadtest", "tests"},
        ),
        (("loadtest.running_command",), {"model_export"}),
    ],
)
def test_commands_load_nothing_heavy(modules: tuple[str, ...], foreign: set[str]) -> None:
    loaded = loaded_by(*modules)

    assert modules[0].split(".")[0] in loaded
    assert not (HEAVY | foreign) & loaded


def test_importing_the_contract_loads_numpy_and_pydantic_and_no_more() -> None:
    loaded = loaded_by(*modules_of("msd.contract"))
    of_pydantic = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "_pydantic_core"}
    of_site = {name for name in loaded if name.startswith(("_", "sitecustomize", "usercustomize", "distutils"))}

    assert loaded - set(sys.stdlib_module_names) - of_pydantic - of_site <= {"msd", "numpy", "pydantic"}


def test_the_pass_can_be_imported_with_numpy_and_onnx_alone() -> None:
    loaded, of_onnx = loaded_by(*modules_of("onnx_factorise")), loaded_by("onnx", "onnx.numpy_helper", "onnx.helper")

    assert loaded - of_onnx - set(sys.stdlib_module_names) == {"onnx_factorise"}


CORE = ("service.scoring", "service.http")
SATELLITES = ("cold", "routes.explainer", "deployment.shadowing", "live", "routes.playground", "request_log")


@pytest.mark.parametrize("package", CORE)
def test_scoring_does_not_import_its_satellites(package: str) -> None:
    for module, source in modules_of(package).items():
        known = [name for name in imports_of(source) for part in SATELLITES if is_below(name, f"service.{part}")]
        assert not known, module


def test_no_two_folders_of_the_service_import_each_other() -> None:
    """What lies in `service/` itself is below all folders, such as its errors, or above them, as its command is."""
    arrows = {
        (module.split(".")[1], name.split(".")[1])
        for module, source in modules_of("service").items()
        for name in imports_of(source)
        if module.count(".") > 1 and name.startswith("service.") and name.count(".") > 2
    }
    assert len(arrows) > 20
    assert not [(first, other) for first, other in arrows if first < other and (other, first) in arrows]
