"""`msd lab graph` on small models: every figure is there and follows from the medians beside it."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lab.race import bench, leaner
from lab.race.bench import GraphPlan
from lab.race.bundle import ranker_of
from lab.race.contestants import in_all_precisions
from lab.race.leaner import Study
from lab.race.precisions import judged, lowered
from lab.race.runners import in_onnxruntime, in_openvino
from lab.race.subject import Subject, untrained
from lab.reference.inputs import Sizes
from lab.reference.training import new_held, trained_reference
from model_export.errors import ExportError
from model_export.factorise.rule import Rule
from msd.__main__ import main
from msd.contract.bundle import GOLDENS, RANKER, Bundle, bundle_id_of, file_entries, write_manifest
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.openvino import load_openvino
from msd.contract.precision import Precision, PrecisionRecord
from tests.bundles.factory import build_bundle
from tests.lab.reference.small import BRIEF, FEW, SMALL, network
from tests.service.live import run_msd

KEYS = {
    *(f"graph_ratio_{kind}_n{count}" for kind in ("fp32", "best") for count in (200, 1000)),
    *("gemm_floor_ratio_best", "slope_us_fp32", "slope_us_best", "pass_ratios", "twin_ratios", "fp64_max_diff"),
    *("precision", "machine", "lean", "in_blocks", "microseconds_in_blocks", "not_possible"),
}
MODELS = {"reference", "deepfm", "dcn_low_rank", "transformer", "two_tasks", "lean"}
# Just so large that its layers are worth rounding to int8.
ROUNDED = Sizes(
    vector=16,
    fields=4,
    vocabulary=20,
    embedding=8,
    history=6,
    attention=16,
    hidden=(32, 32, 16),
    rank=8,
    feed_forward=16,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(tmp_path_factory.mktemp("graph") / "bundle")


@dataclass(frozen=True)
class Written:
    """What `msd lab graph` wrote, where it keeps its models, and what it printed."""

    work: Path
    figures: dict[str, Any]
    picture: str
    printed: str


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Written:
    """One run for all tests of figures: with two seeds, all leaner models are trained, and a bundle is timed, too."""
    folder = tmp_path_factory.mktemp("written")
    work = folder / "work"
    options = ("--work", str(work), "--bundle", str(bundle.folder), "--seconds", "0", "--lean-seeds", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "GraphPlan", partial(GraphPlan, sizes=ROUNDED, training=BRIEF))
        patch.setattr(leaner, "Study", partial(Study, requests=FEW.requests, candidates=FEW.candidates))
        done = run_msd("lab", "graph", "--json", str(folder / "graph.json"), *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "graph.json").read_text(), parse_constant=pytest.fail)
    return Written(work, figures, (folder / "graph.svg").read_text(), done.stdout)


@pytest.fixture(scope="module")
def figures(written: Written) -> dict[str, Any]:
    """The figures alone."""
    return written.figures


def test_every_figure_is_there(figures: dict[str, Any], bundle: Bundle) -> None:
    assert figures.keys() >= KEYS
    assert figures["pass_ratios"].keys() == figures["twin_ratios"].keys() == MODELS
    assert all(ratios.keys() == {"20", "50", "200", "1000"} for ratios in figures["pass_ratios"].values())
    assert 0 <= figures["fp64_max_diff"] <= 1e-12
    assert figures["precision"] in {"fp32", "int8", "bf16"}
    assert figures["machine"]["versions"]["onnxruntime"]
    assert figures["machine"]["cores"] >= 1
    assert figures["bundle_ratios"].keys() == {"20", "50", "200", "1000"}
    assert figures["bundle"] == {"bundle_id": bundle.bundle_id, "precision": "fp32", "at_export": None}


def test_the_figures_are_shown_and_drawn(written: Written) -> None:
    assert written.picture.startswith("<svg")
    assert "too few" in written.printed
    assert all(name in written.printed for name in (*MODELS, "tiled", "user_matrix", "graph.json"))


def test_figures_follow_from_the_medians(figures: dict[str, Any]) -> None:
    precision = figures["precision"]
    best = "passed" if precision == "fp32" else precision
    in_turns, in_blocks = figures["microseconds"]["reference"], figures["microseconds_in_blocks"]["reference"]
    assert in_turns.keys() == in_blocks.keys()
    assert figures["microseconds"].keys() == figures["microseconds_in_blocks"].keys()
    for name, slow, fast, count in (
        ("graph_ratio_fp32_n200", "tiled", "passed", "200"),
        ("graph_ratio_fp32_n1000", "tiled", "passed", "1000"),
        ("graph_ratio_best_n200", "tiled", best, "200"),
        ("graph_ratio_best_n1000", "tiled", best, "1000"),
        ("gemm_floor_ratio_best", best, f"floor_{precision}", "200"),
    ):
        for told, times in ((figures, in_turns), (figures["in_blocks"], in_blocks)):
            assert told[name] == pytest.approx(times[slow][count] / times[fast][count], rel=0.05)


def test_every_form_was_tried_or_says_why_not(figures: dict[str, Any]) -> None:
    tried, not_possible = figures["reference"]["precisions"], figures["not_possible"]

    assert sorted([*tried, *not_possible]) == ["bf16", "fp32_openvino", "int8"]
    assert tried["fp32_openvino"]["refused"] is None
    assert ("int8" in tried) == adds_int8_exactly(cpu_instructions())
    assert all(reason for reason in not_possible.values())
    lowered = tried.keys() - {"fp32_openvino"}
    assert figures["microseconds"]["reference"].keys() >= {*tried, "floor_fp32", *(f"floor_{one}" for one in lowered)}
    if figures["precision"] != "fp32":
        assert tried[figures["precision"]]["refused"] is None
    assert 0.5 < figures["reference"]["fp32"]["auc"] < figures["reference"]["truth"]["auc"]


def test_leaner_models_are_told_beside_the_reference(figures: dict[str, Any]) -> None:
    lean = figures["lean"]

    assert (lean["seeds"], lean["rows"], lean["margins"]) == (2, 400, {"auc": 0.001, "logloss": 0.001})
    assert lean["models"].keys() == {"low_rank_cross", "dot_attention", "narrow_mlp", "lean"}
    for one in lean["models"].values():
        assert len(one["auc"]["by_seed"]) == 2
        assert one["auc"]["ci95"][0] <= one["auc"]["ci95"][1]
        assert one["as_good"] is None
        assert one["ratios"].keys() <= one["microseconds"].keys() == {"fp32", *one["precisions"]}
        assert one["graph_ratio_best_n200"] == one["ratios"][one["precision"]]["200"]
        assert one["graph_ratio_fp32_n200"] == one["ratios"]["fp32"]["200"]
        assert one["in_blocks"]["graph_ratio_best_n200"] >= one["in_blocks"]["graph_ratio_fp32_n200"]
        blocks = one["microseconds_in_blocks"]
        assert blocks.keys() == one["microseconds"].keys()
        assert blocks[one["precision"]]["200"] <= blocks["fp32"]["200"]


def test_rules_that_are_used_are_switched_off_one_by_one(figures: dict[str, Any]) -> None:
    used = Subject("reference", network("reference"), SMALL).passed.report.used

    assert figures["rule_ratios"].keys() == {rule.value for rule in used}
    assert Rule.USER_MATRIX in used


@pytest.mark.parametrize("subject", [*untrained(SMALL), Subject("reference", network("reference"), SMALL)])
def test_the_passed_graph_and_the_twin_score_as_the_plain_one(subject: Subject) -> None:
    feeds = subject.request(30, seed=4)
    expected = in_onnxruntime(subject.plain)(feeds)
    for graph in (subject.passed.model, subject.twin, subject.without(Rule.LINEAR)):
        found = in_onnxruntime(graph)(feeds)
        assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
    assert subject.proved() <= 1e-12


def test_a_precision_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    tiny = replace(SMALL, vector=4, fields=2, embedding=2)
    trained = trained_reference(tmp_path, tiny, BRIEF, lambda *_: None)
    passed = Subject("reference", trained.network, tiny).passed.model
    found = lowered(passed, trained.known, trained.held, ("avx2", "avx512_vnni"))

    assert "no layer of" in found.not_possible["int8"]
    assert "int8" not in found.tried


def test_int8_is_for_cpus_with_vnni(written: Written) -> None:
    trained = trained_reference(written.work, ROUNDED, BRIEF, lambda *_: None)
    subject = Subject("reference", trained.network, ROUNDED)
    with_vnni, without = (
        lowered(subject.passed.model, trained.known, trained.held, instructions)
        for instructions in (("avx2", "avx512_vnni"), ("avx2",))
    )

    assert "VNNI" in without.not_possible["int8"]
    raced = in_all_precisions(subject, with_vnni.tried)
    assert raced.keys() - in_all_precisions(subject, without.tried).keys() == {"int8", "floor_int8"}
    assert all(raced[name](30)() for name in ("int8", "floor_int8"))


@pytest.mark.parametrize("count", [20, 30, 200])
def test_openvino_runs_as_served_score_as_onnxruntime(count: int) -> None:
    subject = Subject("reference", network("reference"), SMALL)
    feeds = subject.request(count)
    found = in_openvino(subject.passed.model, "fp32", count)(feeds)
    expected = in_onnxruntime(subject.passed.model)(feeds)

    assert [one.shape for one in found] == [one.shape for one in expected] == [(count,)]
    assert np.allclose(found, expected, atol=1e-5)


def test_scores_that_are_worse_are_refused() -> None:
    held = new_held(SMALL, BRIEF, BRIEF.held, BRIEF.held_candidates, 1)

    assert judged(held, held.chances, held.chances).refused is None
    assert judged(held, held.chances, held.chances[:, ::-1]).refused is not None


def test_a_bundles_request_is_as_long_as_asked(bundle: Bundle) -> None:
    ranker = ranker_of(bundle.folder)
    sides = {spec.name: spec.side for spec in bundle.schema.tensors}
    feeds = ranker.request(333)

    assert {len(value) for name, value in feeds.items() if sides[name] == "item"} == {333}
    assert {len(value) for name, value in feeds.items() if sides[name] != "item"} == {1}
    plain, passed = (in_onnxruntime(graph)(feeds)[0] for graph in (ranker.plain, ranker.passed))
    assert np.allclose(plain, passed, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_bundle_is_timed_in_its_precision_where_the_cpu_has_it(bundle: Bundle, precision: Precision) -> None:
    record = PrecisionRecord(asked=precision, chosen=precision, candidates=200)
    ranker = ranker_of(bundle.folder)
    ranker = replace(ranker, bundle=replace(bundle, manifest=bundle.manifest.model_copy(update={"precision": record})))
    offered = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    possible = {"int8": adds_int8_exactly(cpu_instructions()), "bf16": "BF16" in offered}[precision]

    if possible:
        assert ranker.opened(ranker.passed)(ranker.request(200))[0].shape == (200,)
    else:
        with pytest.raises(ExportError, match=f"^{precision}: "):
            ranker.opened(ranker.passed)


def test_a_bundle_without_goldens_is_named(tmp_path: Path) -> None:
    folder = build_bundle(tmp_path / "bundle").folder
    (folder / GOLDENS).write_bytes(b"")

    with pytest.raises(BundleError, match=GOLDENS):
        ranker_of(folder)


def test_a_ranker_that_the_pass_does_not_read_is_named(tmp_path: Path) -> None:
    made = build_bundle(tmp_path / "bundle")
    graph = onnx.load(made.path(RANKER))
    graph.opset_import[0].version = 9
    onnx.save(graph, made.path(RANKER))
    bundle_id = bundle_id_of(made.schema, {RANKER: sha256_file(made.path(RANKER))})
    files = file_entries(made.folder)
    write_manifest(made.folder, made.manifest.model_copy(update={"bundle_id": bundle_id, "files": files}))

    with pytest.raises(BundleError, match=f"{RANKER}: cannot be factorised: .*opset 9"):
        ranker_of(made.folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "nowhere"], "no bundle here"),
        (["--json", "graph.svg"], "must end in .json"),
        (["--seconds", "-1"], "--seconds"),
        (["--lean-seeds", "0"], "--lean-seeds"),
        (["some bundle"], "unexpected extra argument"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_msd("lab", "graph", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_help_is_of_the_graph_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lab", "graph", "--help"])

    said = capsys.readouterr().out
    assert "msd lab graph [OPTIONS]" in said
    assert "--url" not in said
