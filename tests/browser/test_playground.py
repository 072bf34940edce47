"""The playground in a real Chromium, with and without a mouse; texts are escaped."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from msd.contract.bundle import Bundle
from service.http.keys import KeyFile, new_key
from tests.browser.playground_page import PlaygroundPage, ids_of
from tests.bundles.factory import AT
from tests.service.live import LiveService, live_service
from tests.service.worded import HOSTILE

pytestmark = pytest.mark.browser

CONTEXT = {"hour": "13", "device": "ios", "temperature": 21.5}
NO_STORAGE = """
for (const name of ["localStorage", "sessionStorage", "indexedDB", "caches"])
  Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
Object.defineProperty(Document.prototype, "cookie", { get() { throw new DOMException("denied", "SecurityError"); } });
"""


def asked(ids: list[str], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """What the page asks at first, of these ads."""
    bids = [0.5] * len(ids)
    return {"user_id": "u1", "at": AT, "context": CONTEXT, "candidates": {"id": ids, "bid": bids}, **more}


def test_ranking_shows_the_services_figures(page: PlaygroundPage, playground: LiveService) -> None:
    ids = page.order()
    reply = playground.score(asked(ids, top_k=12)).json()["candidates"]
    assert len(ids) == 12
    assert reply["id"] == ids
    for one, pctr, ecpm in zip(ids, reply["pctr"], reply["ecpm"], strict=True):
        assert page.figures(one).split("\n") == [f"{100 * pctr:.1f} %", f"eCPM {ecpm:.0f}"]


def test_bid_moves_its_ad_and_a_wrong_one_is_rejected(page: PlaygroundPage) -> None:
    last = page.order()[-1]
    field = page.row(last).locator("input")
    field.select_text()
    page.tab.keyboard.type("25.5")
    expect(field).to_have_value("25.5")
    field.press("Enter")
    expect(page.rows.first).to_have_attribute("data-id", last)
    expect(field).to_be_focused()
    page.bid(last, "")
    expect(page.rows.last).to_have_attribute("data-id", last)
    expect(page.row(last).locator(".ecpm")).to_have_text("no bid")
    page.settle()
    page.bid("i1", "-1")
    trouble = page.tab.get_by_role("alert")
    expect(trouble).to_contain_text("The service says: should be greater than or equal to 0 (candidates.bid.")
    page.bid("i1", "1")
    expect(trouble).to_be_hidden()
    page.settle()
    assert all("422" in one for one in page.console)
    page.console.clear()


def test_what_is_selected_or_half_typed_stays_when_explanations_arrive(page: PlaygroundPage) -> None:
    """The service is real; its explanations are held back until somebody is at a bid again."""
    held: list[Route] = []
    is_holding = True

    def hold(route: Route) -> None:
        is_asking = '"explain":true' in (route.request.post_data or "")
        held.append(route) if is_asking and is_holding else route.continue_()

    def release() -> None:
        nonlocal is_holding
        is_holding = False
        for route in held:
            route.continue_()
        held.clear()
        page.settle()
        is_holding = True

    page.tab.route("**/v1/score", hold)
    last = page.order()[-1]
    field = page.row(last).locator("input")
    page.bid(last, "25.5")
    expect(page.rows.first).to_have_attribute("data-id", last)
    field.select_text()
    release()
    page.tab.keyboard.type("0")
    field.press("Enter")
    expect(page.rows.last).to_have_attribute("data-id", last)
    page.tab.keyboard.type(".1")
    release()
    page.tab.keyboard.type("25")
    expect(field).to_have_value("0.125")
    field.press("Enter")
    expect(page.row(last).locator(".ecpm")).not_to_have_text("eCPM 0")
    release()


def test_own_ad_is_scored_by_its_text(page: PlaygroundPage, playground: LiveService) -> None:
    page.tab.get_by_role("button", name="Write an ad of your own").click()
    words = page.tab.get_by_label("title", exact=True)
    expect(words).to_be_focused()
    mine = page.row("your-ad-1")
    expect(mine.locator(".marks")).to_have_text("your adnothing is known of it")
    page.settle()
    before = page.figures("your-ad-1")
    words.fill("A tent for two, light and dry")
    expect(mine.locator(".marks")).to_have_text("your adread from its words")
    expect(mine.locator(".title")).to_have_text("A tent for two, light and dry")
    page.settle()
    assert page.figures("your-ad-1") != before
    page.tab.locator("#own").get_by_label("category").select_option("games")
    page.tab.locator("#own").get_by_label("price").fill("9.5")
    page.tab.locator("#own").get_by_label("genres").fill("g1, g2")
    item = {
        "text": "A tent for two, light and dry",
        "features": {"category": "games", "price": 9.5, "genres": ["g1", "g2"]},
    }
    reply = playground.score(asked(["your-ad-1"], items={"your-ad-1": item})).json()
    expect(mine.locator(".pctr")).to_have_text(f"{100 * reply['candidates']['pctr'][0]:.1f} %")
    page.settle()


def test_switch_shows_the_other_models_ranking_and_nothing_is_stored(
    page: PlaygroundPage, playground: LiveService
) -> None:
    expect(page.other_rows.first).to_be_hidden()
    page.tab.get_by_role("switch").check()
    expect(page.other_rows).to_have_count(12)
    with playground.client() as client:
        reply = client.post("/playground/score-without", json=asked(page.order(), top_k=12)).json()
    ranked, other = page.order(), ids_of(page.other_rows)
    assert other == reply["candidates"]["id"]
    for place, one in enumerate(ranked):
        moved = other.index(one) - place
        shown = "=" if moved == 0 else f"{'▲' if moved > 0 else '▼'} {abs(moved)}"
        expect(page.row(one).locator(".move")).to_have_text(shown)
    expect(page.tab.get_by_text("The model without the LLM's knowledge")).to_be_visible()
    page.tab.get_by_role("switch").uncheck()
    expect(page.other_rows.first).to_be_hidden()
    page.settle()
    stored = page.tab.evaluate(
        "async () => [localStorage.length, sessionStorage.length, document.cookie,"
        " (await indexedDB.databases()).length]"
    )
    assert stored == [0, 0, "", 0]


def test_explanation_equals_the_services(page: PlaygroundPage, playground: LiveService) -> None:
    page.row("i3").get_by_role("button").first.click()
    expect(page.row("i3").locator(".title")).to_have_attribute("aria-pressed", "true")
    explained = playground.score(asked(page.order(), explain=True)).json()
    place = explained["candidates"]["id"].index("i3")
    came = page.tab.locator("#why .came")
    expect(came.locator(".ends").first).to_contain_text(f"{100 * explained['explanation']['base']:.1f} %")
    for group, bar in zip(("semantic", "history", "dense", "id"), came.locator("li").all(), strict=True):
        share = explained["explanation"]["shares"][group][place]
        shown = bar.locator(".value").get_attribute("title")
        assert shown == f"log-odds {'−' if share < 0 else '+'}{abs(share):.2f}"
        assert abs(share) < 0.05 or bar.locator(f".bar.{group}").bounding_box()["width"] > 1  # type: ignore[index]
    history = explained["explanation"]["history"]
    strongest = max(zip(history["effect"][place], history["id"], strict=True), key=lambda one: abs(one[0]))
    expect(page.tab.locator("#why .bars.clicks .name").first).to_have_text(f"Tent number {strongest[1][1:]}")
    assert page.tab.locator(".strip").count() == 12


def test_taste_is_the_share_of_past_ads_by_category(page: PlaygroundPage, playground: LiveService) -> None:
    explained = playground.score(asked(page.order(), explain=True)).json()
    ids, shares = explained["candidates"]["id"], explained["explanation"]["shares"]["history"]
    with playground.client() as client:
        past = client.get("/playground/data/user", params={"id": "u1"}).json()["history"]
        about = {"id": [*ids, *(seen["id"] for seen in past)]}
        features = {
            id_: ad["features"] for id_, ad in client.get("/playground/data/ads", params=about).json()["ads"].items()
        }
    shown = page.tab.locator("#taste .bars li")
    effects: dict[str, list[float]] = defaultdict(list)
    for id_, share in zip(ids, shares, strict=True):
        if category := features[id_]["category"]:
            effects[category].append(share)
    means = {category: sum(found) / len(found) for category, found in effects.items()}
    expect(shown).to_have_count(len(means))
    for row, category in zip(shown.all(), sorted(means, key=lambda one: -means[one]), strict=True):
        seen = [one["clicked"] for one in past if features[one["id"]]["category"] == category]
        expect(row.locator(".name")).to_have_text(f"{category} ({sum(seen)} of {len(seen)})")
        sign = "−" if means[category] < 0 else "+"
        expect(row.locator(".value")).to_have_attribute("title", f"log-odds {sign}{abs(means[category]):.2f}")
        assert row.locator(".spread").count() == 1


def test_teachers_words_are_shown(page: PlaygroundPage) -> None:
    page.row("i1").get_by_role("button").first.click()
    why = page.tab.locator("#why")
    for text in ("Städte am Meer", "Two cities.", "For walkers.", "sea", "books"):
        expect(why).to_contain_text(text)
    expect(page.tab.locator("#taste")).to_contain_text("Clicks on tents.")
    page.row("i3").get_by_role("button").first.click()
    expect(why.get_by_text("Nothing.")).to_be_visible()


def test_history_can_be_written(page: PlaygroundPage) -> None:
    with page.rescored():
        page.tab.get_by_role("button", name="or write a history of your own").click()
    expect(page.tab.get_by_text("Somebody the service has not met")).to_be_visible()
    before = [page.figures(one) for one in sorted(page.order())]
    page.find("Add a click").fill("tent number 77")
    page.find("Add a click").press("Enter")  # at once, before anything can have been found
    expect(page.find("Add a click")).to_be_focused()
    expect(page.tab.get_by_text("Clicked so far: 1")).to_be_visible()
    expect(page.tab.locator("#why .bars.clicks .name")).to_have_text(["Tent number 77"])
    page.settle()
    assert [page.figures(one) for one in sorted(page.order())] != before
    with page.rescored():
        page.tab.get_by_role("button", name="Remove Tent number 77 from the history").click()
    expect(page.tab.get_by_text("There are none.")).to_be_visible()
    assert [page.figures(one) for one in sorted(page.order())] == before


def test_keyboard_suffices(page: PlaygroundPage) -> None:
    keyboard = page.tab.keyboard
    keyboard.press("Tab")
    expect(page.tab.get_by_role("link", name="To the ranking")).to_be_focused()
    keyboard.press("Tab")
    expect(page.tab.get_by_role("switch")).to_be_focused()
    keyboard.press("Space")
    expect(page.other_rows).to_have_count(12)
    page.tab.get_by_role("link", name="To the ranking").focus()
    keyboard.press("Enter")
    keyboard.press("Tab")
    add = page.find("Add an ad")
    expect(add).to_be_focused()
    keyboard.type("tent number 14")
    expect(page.offers.first).to_have_attribute("value", "Tent number 14")
    keyboard.press("Enter")
    expect(page.rows).to_have_count(13)
    expect(page.row("i14")).to_have_class("selected")
    expect(add).to_be_focused()
    keyboard.press("Tab")
    expect(page.tab.get_by_role("button", name="Write an ad of your own")).to_be_focused()
    keyboard.press("Tab")
    first = page.rows.first
    expect(first.locator(".title")).to_be_focused()
    keyboard.press("Enter")
    expect(first).to_have_class("selected")
    keyboard.press("Tab")
    expect(first.locator("input")).to_be_focused()
    keyboard.press("Tab")
    removed = first.get_attribute("data-id")
    keyboard.press("Enter")
    expect(page.rows).to_have_count(12)
    assert removed not in page.order()
    page.settle()


@pytest.mark.parametrize("width", [360, 800])
def test_page_fits_small_screens_and_every_input_has_a_name(page: PlaygroundPage, width: int) -> None:
    page.tab.set_viewport_size({"width": width, "height": 740})
    page.tab.get_by_role("switch").check()
    expect(page.other_rows).to_have_count(12)
    page.tab.get_by_role("button", name="Write an ad of your own").click()
    page.tab.get_by_label("title", exact=True).fill("Averylongwordwithoutanyspaceinit" * 20)
    page.settle()
    page.check_width()
    assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    for part in ("#who", "#lists", "#why", "#taste"):
        box = page.tab.locator(part).bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
    expect(page.row("your-ad-1").locator("input")).to_be_visible()
    page.tab.get_by_text("change the facts").click()
    nameless = page.tab.locator("button, input, select, textarea").evaluate_all(
        "all => all.filter((one) => one.checkVisibility() && !(one.ariaLabel || one.labels?.[0]?.textContent.trim()"
        " || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert nameless == []
    page.settle()


def test_page_works_without_storage(tab: Page, playground: LiveService) -> None:
    tab.add_init_script(NO_STORAGE)
    page = PlaygroundPage(tab, playground.url)
    page.open()
    tab.get_by_role("switch").check()
    expect(page.other_rows).to_have_count(12)
    page.bid(page.order()[-1], "99")
    page.settle()
    page.check_silence()


def test_hostile_texts_are_escaped(page: PlaygroundPage) -> None:
    page.row("i2").get_by_role("button").first.click()
    expect(page.row("i2").locator(".title")).to_have_text(HOSTILE)
    expect(page.tab.locator("#why .tags li")).to_have_text([HOSTILE])
    expect(page.tab.locator("#taste .wrote").last).to_contain_text(HOSTILE)
    page.find("Add an ad").fill("onerror")
    page.find("Add an ad").fill("")
    page.tab.get_by_role("button", name="Write an ad of your own").click()
    page.tab.get_by_label("title", exact=True).fill(HOSTILE)
    expect(page.row("your-ad-1").locator(".title")).to_have_text(HOSTILE)
    page.find("Pick a user").fill(HOSTILE)
    page.find("Pick a user").press("Enter")
    expect(page.tab.get_by_text("Somebody the service has not met")).to_be_visible()
    page.settle()
    assert page.tab.title() == "Playground · msd-ctr"
    assert page.tab.locator("img, script:not([type=module]), iframe, object").count() == 0
    assert page.tab.locator("script").count() == 1


def test_browser_rejects_markup_and_inline_scripts(page: PlaygroundPage) -> None:
    for harm in (
        "document.body.innerHTML = '<b>harm</b>'",
        "document.head.append(Object.assign(document.createElement('script'), { textContent: 'document.title = 1' }))",
        "document.body.setAttribute('onclick', 'document.title = 1'); document.body.click()",
        "await fetch('https://example.org/'); document.title = 1",
    ):
        page.tab.evaluate(f"async () => {{ try {{ {harm}; }} catch {{ }} }}")
    assert page.tab.title() == "Playground · msd-ctr"
    assert page.rows.count() == 12
    page.console.clear()
    page.requested.clear()


def test_key_is_kept_in_memory_and_a_lost_service_is_named(
    tab: Page, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    key, entry = new_key("page", ("score",), None)
    file = tmp_path / "keys.json"
    file.write_text(KeyFile(keys=(entry,)).model_dump_json())
    with live_service(bundles[0].folder, tmp_path, playground=True, keys_file=file) as running:
        page = PlaygroundPage(tab, running.url)
        tab.goto(f"{running.url}/playground")
        asks = tab.get_by_label("This service asks for a key")
        expect(asks).to_be_focused()
        asks.fill("wrong")
        asks.press("Enter")
        expect(asks).to_be_visible()
        asks.fill(key)
        asks.press("Enter")
        page.settle()
        expect(asks).to_be_hidden()
        expect(tab.get_by_role("switch")).to_be_hidden()
        tab.reload()
        expect(asks).to_be_visible()
        asks.fill(key)
        asks.press("Enter")
        page.settle()
        running.terminate()
        page.bid(page.order()[0], "3")
        expect(tab.get_by_role("alert")).to_contain_text("The service does not answer.")
        expect(tab.get_by_role("button", name="Try again")).to_be_visible()
    assert all("Failed to load resource" in one for one in page.console)


def test_scores_stay_without_time_to_explain_them(page: PlaygroundPage, playground: LiveService) -> None:
    """The service is real; the page's requests for explanations are given a time that cannot do."""

    def hurry(route: Route) -> None:
        is_asking = '"explain":true' in (route.request.post_data or "")
        route.continue_(headers={**route.request.headers, **({"x-deadline-ms": "1"} if is_asking else {})})

    page.tab.route("**/v1/score", hurry)
    page.bid("i1", "7")
    expect(page.tab.locator("#why .unexplained")).to_contain_text("The scores are not explained. The service says: ")
    ids = page.order()
    bids = [7.0 if id_ == "i1" else 0.5 for id_ in ids]
    ranked = asked(ids, candidates={"id": ids, "bid": bids}, top_k=12)
    assert playground.score(ranked).json()["candidates"]["id"] == ids
    expect(page.tab.get_by_role("alert")).to_be_hidden()
    page.tab.unroute("**/v1/score")
    page.bid("i1", "0.5")
    page.settle()
    expect(page.tab.locator("#why .unexplained")).to_have_count(0)
    page.console = [one for one in page.console if "504" not in one and "429" not in one]


def test_addresses_are_relative() -> None:
    folder = Path(__file__).parents[2] / "service/routes/playground/static"
    assert not re.findall(r"(?:src|href)=\"/", (folder / "index.html").read_text("utf-8"))
    assert not re.findall(r"[\"'`]/(?:v1|playground)", "".join(path.read_text("utf-8") for path in folder.glob("*.js")))


def test_words_follow_the_manifest(tab: Page, bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with live_service(bundles[1].folder, tmp_path, playground=True) as running:
        page = PlaygroundPage(tab, running.url)
        page.open()
        expect(tab.locator("#model")).to_have_text(re.compile("^A small model ranks them: test-1"))
        expect(tab.locator("#legend li").first).to_have_text("Texts")
        assert "LLM" not in tab.locator("body").inner_text()
        page.check_silence()
