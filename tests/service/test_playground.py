"""The playground over HTTP: off unless asked for; what it tells, to whom, and that nothing but itself can run in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import read_goldens
from service.http.keys import KeyFile, new_key
from service.routes.playground import data as module
from service.routes.playground.data import Words
from tests.bundles.factory import AT
from tests.service.live import ROOT, LiveService, live_service, run_msd, wait_until
from tests.service.worded import compared_service, with_words

ASKED: dict[str, Any] = {"user_id": "u1", "at": AT, "candidates": {"id": ["i1", "i2", "i3"], "bid": [1, 2, 3]}}
PATHS = ("/playground", "/playground/static/main.js", "/playground/data/about", "/playground/data/user?id=u1")


def get(service: LiveService, path: str, **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.get(path, headers=headers)


def known(service: LiveService, path: str) -> dict[str, Any]:
    answer = get(service, f"/playground/data/{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json()
    return body


def score_without(service: LiveService, document: dict[str, Any]) -> httpx.Response:
    with service.client() as client:
        return client.post("/playground/score-without", json=document)


def test_playground_is_off_by_default(service: LiveService) -> None:
    assert [get(service, path).status_code for path in PATHS] == [404] * len(PATHS)


def test_page_and_all_that_it_loads_come_from_here_and_nothing_else_may_run(playground: LiveService) -> None:
    folder = ROOT / "service/routes/playground/static"
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "main.js", "playground.css", "icon.svg"} <= names
    for name in names:
        answer = get(playground, "/playground" if name == "index.html" else f"/playground/static/{name}")
        assert (answer.status_code, answer.content) == (200, (folder / name).read_bytes())
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "http" not in answer.text.replace("http://www.w3.org/", "")
    assert get(playground, "/playground/static/nothing.js").status_code == 404


def test_about_describes_the_forms(playground: LiveService) -> None:
    about = known(playground, "about")
    assert (about["model_version"], about["without"], about["items"], about["users"]) == ("test-0", "test-1", 300, 2)
    assert (about["item_text"], about["encodes_texts"], about["most_explained"]) == ("{title}", True, 200)
    assert about["semantics"] == "knowledge"
    fields = {field["name"]: field for field in about["fields"]["item"]}
    assert fields == {
        "category": {"name": "category", "kind": "categorical", "values": ["books", "games", "travel"]},
        "genres": {"name": "genres", "kind": "bag", "values": [], "most": 2},
        "price": {"name": "price", "kind": "numeric"},
    }
    assert [field["name"] for field in about["fields"]["context"]] == ["hour", "device", "temperature"]
    example = about["example"]
    assert (example["user_id"], example["at"]) == ("u1", AT)
    assert example["context"] == {"hour": 13, "device": "ios", "temperature": 21.5}
    assert len(example["ads"]) == len(set(example["ads"])) == 12


def test_items_and_users_are_found(playground: LiveService, worded: Bundle) -> None:
    assert known(playground, "items?text=städte")["items"] == [{"id": "i1", "title": "Städte am Meer"}]
    assert len(known(playground, "items")["items"]) == 20
    assert known(playground, "users?text=u")["users"] == [{"id": "u1"}, {"id": "u2"}]
    ads = known(playground, "ads?id=i1&id=i299&id=nothing")["ads"]
    assert ads["i299"]["title"] == "i299"
    assert ads["nothing"] == {"title": "nothing", "known": False, "features": {}}
    assert {name: ads["i1"][name] for name in ("title", "explicit", "implicit", "tags", "known")} == {
        "title": "Städte am Meer",
        "explicit": "Two cities.",
        "implicit": "For walkers.",
        "tags": ["sea"],
        "known": True,
    }
    # Hashed values are unknown.
    assert ads["i1"]["features"] == {"category": "books", "genres": [], "price": 1.0}


def test_user_is_described_by_their_row(playground: LiveService) -> None:
    user = known(playground, "user?id=u1")
    assert (user["known"], user["features"]["age"], user["words"]["explicit"]) == (True, 19.0, "Clicks on tents.")
    assert user["history"]
    assert all(set(one) == {"id", "clicked", "at"} for one in user["history"])
    assert known(playground, "user?id=nobody") == {
        "id": "nobody",
        "known": False,
        "features": {},
        "history": [],
        "words": None,
    }


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("ads", "id"),
        ("ads?" + "&".join(["id=i1"] * 201), "id"),
        ("ads?id=", "id"),
        ("user", "id"),
        (f"user?id={'x' * 257}", "id"),
        ("user?id=%00", "id"),
        (f"items?text={'x' * 257}", "text"),
    ],
)
def test_invalid_query_is_refused_by_its_field(playground: LiveService, path: str, field: str) -> None:
    answer = get(playground, f"/playground/data/{path}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_model_without_gives_the_scores_of_its_own_goldens(playground: LiveService, other_bundle: Bundle) -> None:
    wait_until(lambda: score_without(playground, ASKED).status_code == 200)
    for golden in read_goldens(other_bundle.path(GOLDENS)):
        if golden.events:
            continue
        request = {name: value for name, value in golden.request.items() if name != "top_k"}
        columns = score_without(playground, request).json()["candidates"]
        assert columns["pctr"] == pytest.approx(golden.expected["pctr"], abs=1e-5)
    found = score_without(playground, {**ASKED, "explain": True}).json()
    assert (found["model_version"], len(found["explanation"]["shares"]["id"])) == ("test-1", 3)
    assert "arm" not in found
    assert playground.score(ASKED).json()["candidates"]["pctr"] != found["candidates"]["pctr"]
    wrong = score_without(playground, {**ASKED, "top_k": 0})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "top_k")


def test_page_is_open_and_its_data_needs_a_key(bundle: Bundle, tmp_path: Path) -> None:
    keys = [new_key(scope, (scope,), None) for scope in ("score", "metrics")]
    file = tmp_path / "keys.json"
    file.write_text(KeyFile(keys=tuple(entry for _, entry in keys)).model_dump_json())
    with live_service(bundle.folder, tmp_path, playground=True, keys_file=file) as running:
        assert [get(running, path).status_code for path in PATHS] == [200, 200, 401, 401]
        for (key, _), status in zip(keys, (200, 403), strict=True):
            assert get(running, PATHS[2], **{"X-Api-Key": key}).status_code == status
        assert known_with(running, keys[0][0])["without"] is None
        assert score_without(running, ASKED).status_code == 401


def known_with(service: LiveService, key: str) -> dict[str, Any]:
    body: dict[str, Any] = get(service, PATHS[2], **{"Authorization": f"Bearer {key}"}).json()
    return body


def test_missing_bundle_to_compare_with_refuses_the_start(bundle: Bundle, tmp_path: Path) -> None:
    given = {"MSD_PLAYGROUND": "true", "MSD_PLAYGROUND_WITHOUT": str(tmp_path / "none"), "MSD_PORT": "0"}
    ended = run_msd("serve", str(bundle.folder), **given)
    assert ended.returncode != 0
    assert f"{tmp_path / 'none'}: no bundle here" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.fixture
def words(tmp_path: Path) -> Words:
    lines = [
        {"id": "1", "title": "Star Wars", "explicit": "Space."},
        {"id": "2", "title": "A War of Stars"},
        {"id": "star", "title": "Something else"},
        {"id": "3", "title": "ÉTÉ à la mer\u2028"},
        {"id": "4", "title": None},
    ]
    path = tmp_path / "items.meta.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return Words(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("star", ["star", "1", "2"]),
        ("STAR war", ["1", "2"]),
        ("été", ["3"]),
        ("4", ["4"]),
        ("nothing such", []),
        ("", ["1", "2", "star", "3", "4"]),
    ],
)
def test_id_itself_comes_first_then_titles_that_begin_so(words: Words, text: str, found: list[str]) -> None:
    assert words.find(text, 10) == found
    assert words.find(text, 1) == found[:1]


def test_words_are_found_by_id(words: Words) -> None:
    assert words.of(["3", "no", "1"]) == {
        "3": {"id": "3", "title": "ÉTÉ à la mer\u2028"},
        "1": {"id": "1", "title": "Star Wars", "explicit": "Space."},
    }
    assert (words.title("1"), words.title("4"), words.title("no")) == ("Star Wars", "4", "no")


def test_words_are_bounded(words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 2)
    assert len(Words(tmp_path / "items.meta.jsonl")) == 2


def test_malformed_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "items.meta.jsonl"
    path.write_bytes(b'[]\n{"id": 1}\n\n{"title": "x"}\n\xff\n' + b"[" * 100_000 + b'\n{"id": "1", "title": 7}\n')
    assert (Words(path).find("", 9), Words(path).title("1")) == (["1"], "7")


def test_without_a_file_there_are_no_words(tmp_path: Path) -> None:
    assert (Words(tmp_path / "none").find("", 9), Words(tmp_path / "none").of(["1"])) == ([], {})


@pytest.fixture(scope="package")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_words(tmp_path_factory.mktemp("playground") / "with")


@pytest.fixture(scope="package")
def playground(worded: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with a playground that compares with another model."""
    with compared_service(worded, other_bundle, tmp_path_factory.mktemp("service")) as running:
        yield running
