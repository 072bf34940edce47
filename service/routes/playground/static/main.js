// The page: what is chosen, the requests that follow from it, and what is shown of their replies.

import { know, score, Trouble, useKey } from "./api.js";
import { calm, el, renew } from "./dom.js";
import { described, editor, newAd } from "./own.js";
import { legend, nameBy, naming } from "./parts.js";
import { picker } from "./picker.js";
import { ranking, titleOf } from "./ranking.js";
import { taste } from "./taste.js";
import { Who } from "./who.js";
import { why } from "./why.js";

const BID = 0.5;
const TRIES = 20;
const PAUSE = 300;
const byId = (id) => document.getElementById(id);
const past = new Map();
const ads = new Map();
const state = { about: null, who: null, selected: null, number: 0, made: 0, edited: null, shown: null };

/** Does something that may fail, and says so where it does. */
async function attempt(call) {
  try {
    await call();
    byId("trouble").hidden = true;
  } catch (error) {
    if (!(error instanceof Trouble)) throw error;
    const needsKey = error.status === 401;
    byId("key").hidden = !needsKey;
    byId("trouble").hidden = needsKey;
    byId("trouble").firstElementChild.textContent = error.message;
    if (needsKey) byId("key-text").focus();
  }
}

async function start() {
  const about = await know("about");
  byId("key").hidden = true;
  state.about = about;
  nameBy(about);
  const knows = naming.isTaught ? ", with what a large one knows" : "";
  byId("model").textContent = `A small model ranks them${knows}: ${about.model_version}, ${about.items.toLocaleString("en")} ads.`;
  byId("switch").querySelector("span").textContent = `Compare with ${naming.compared}`;
  byId("switch").hidden = about.without === null;
  byId("legend").replaceChildren(...legend());
  byId("add").replaceChildren(
    picker({
      label: "Add an ad", hint: "find a title", attempt,
      search: async (text) => (await know("items", [["text", text]])).items.filter((one) => !ads.has(one.id)),
      choose: (id) => add([id]),
    }),
    el("button", { type: "button", class: "first", onclick: write }, "Write an ad of your own"),
  );
  if (about.example.ads.length) await learn(about.example.ads, ads);
  state.who = new Who({ place: byId("who"), about, past, learn: (ids) => learn(ids, past), attempt, changed: () => refresh() });
  byId("main").hidden = false;
  await state.who.turnTo(about.example.user_id);
}

/** Puts ads that the service knows into the candidates or the past ads. */
async function learn(ids, place) {
  if (!ids.length) return;
  const found = (await know("ads", ids.map((id) => ["id", id]))).ads;
  for (const id of ids) place.set(id, { id, bid: BID, ...found[id] });
}

async function add(ids) {
  await learn(ids, ads);
  state.selected = ids[0];
  refresh();
}

function write() {
  const id = `your-ad-${++state.made}`;
  ads.set(id, newAd(id, BID));
  select(id);
  refresh();
  byId("own").querySelector("textarea, input")?.focus();
}

function select(id) {
  state.selected = id;
  if (state.shown) draw();
}

const soon = calm(() => refresh(), 150);

function bid(id, text) {
  ads.get(id).bid = text === "" ? null : Number(text);
  soon();
}

function remove(id) {
  ads.delete(id);
  if (state.selected === id) state.selected = null;
  refresh();
  byId("ranking").focus();
}

function request() {
  const chosen = [...ads.values()];
  const own = chosen.filter((ad) => ad.own).map((ad) => [ad.id, described(ad, state.about)]);
  return {
    ...state.who.asked,
    candidates: { id: chosen.map((ad) => ad.id), bid: chosen.map((ad) => ad.bid) },
    ...(own.length ? { items: Object.fromEntries(own) } : {}),
    top_k: chosen.length,
  };
}

/** Asks for scores; then for those of the other model and for explanations. What is no longer wanted is not shown.
 * Where a text is yet to be encoded, all that again a little later. */
function refresh(tries = TRIES) {
  const number = ++state.number;
  const isOld = () => number !== state.number;
  return attempt(async () => {
    if (!ads.size) return empty();
    const asked = request();
    const lead = await score(asked);
    if (isOld()) return;
    const isCompared = byId("compare").checked;
    // What explained the scores before stays, dimmed, until its successor is there.
    byId("main").classList.add("stale");
    const unread = tries ? unreadOf(asked, lead) : new Set();
    state.shown = { ...state.shown, lead, unread, other: null, without: null };
    if (unread.size) setTimeout(() => isOld() || refresh(tries - 1), PAUSE);
    if (isCompared) state.shown.other = await score(asked, true);
    if (isOld()) return;
    draw();
    const explained = await explainedBy(asked, isCompared);
    if (isOld()) return;
    Object.assign(state.shown, explained);
    byId("main").classList.remove("stale");
    draw();
  });
}

/** What the scores came of; or why there is nothing to be said of that, which does not take the ranking away. */
async function explainedBy(asked, isCompared) {
  const nothing = { explanation: null, without: null };
  const most = state.about.most_explained;
  if (asked.top_k > most) return { ...nothing, unexplained: `More than ${most} ads at once are not explained.` };
  try {
    const body = await score({ ...asked, explain: true });
    const other = isCompared ? await score({ ...asked, explain: true }, true) : null;
    const without = other && explanationOf(other);
    return { explanation: explanationOf(body), without, unexplained: null };
  } catch (error) {
    if (!(error instanceof Trouble) || !error.isForWantOfTime) throw error;
    return { ...nothing, unexplained: `The scores are not explained. ${error.message}` };
  }
}

/** The ads whose texts the service has, but has not read yet. */
function unreadOf(asked, reply) {
  const texts = state.about.encodes_texts ? Object.entries(asked.items ?? {}).filter(([, item]) => item.text) : [];
  return new Set(texts.map(([id]) => id).filter((id) => reply.degraded?.candidates?.[id] !== "encoded"));
}

const explanationOf = (body) => ({ ...body.explanation, ids: body.candidates.id, pctr: body.candidates.pctr });

function draw() {
  const { lead, other, explanation, without, unexplained, unread } = state.shown;
  if (!ads.has(state.selected)) state.selected = lead.candidates.id.find((id) => ads.has(id));
  list({ lead, other, explanation, unread });
  const ad = ads.get(state.selected);
  if (state.edited !== ad) {
    state.edited = ad;
    byId("own").replaceChildren(...(ad.own ? editor(ad, state.about, soon) : []));
  }
  const isScored = lead.candidates.id.includes(ad.id);
  if (ad.own && !Object.keys(described(ad, state.about)).length) {
    byId("why").replaceChildren(el("p", { class: "quiet" }, "Nothing is said of this ad yet; it is scored as any unknown one."));
  } else byId("why").replaceChildren(...(isScored ? why({ ad, lead, explanation, without, unexplained, past }) : []));
  const first = `, the first is ${titleOf(ads.get(lead.candidates.id[0]))}`;
  const told = el("span", { class: "unseen" }, first);
  byId("told").replaceChildren(`${lead.candidates.id.length} ads by ${ranksBy(lead)}`, told);
  const { user, seen } = state.who;
  byId("taste").replaceChildren(...taste({ ads, explanation, seen, known: past, fields: state.about.fields.item, user }));
}

/** Draws the lists; who is in a row with the keyboard goes on there, with what is selected or half typed. */
function list(shown) {
  const place = byId("lists");
  place.classList.toggle("both", shown.other !== null);
  const fresh = el("div", {}, ...ranking({ ...shown, ads, selected: state.selected, acts: { select, bid, remove } }));
  const here = place.contains(document.activeElement) ? document.activeElement : null;
  const row = here && [...fresh.querySelectorAll(".ads li")].find((one) => one.dataset.id === here.closest("li")?.dataset.id);
  const there = row?.querySelector(here.matches("input") ? "input" : `button.${here.className}`);
  if (there) renew(place, fresh, here, there);
  else place.replaceChildren(...fresh.children);
}

const ranksBy = (lead) => (lead.candidates.ecpm.some((one) => one !== null) ? "eCPM = 1000 × bid × pCTR" : "pCTR");

function empty() {
  state.shown = state.selected = state.edited = null;
  for (const id of ["own", "why", "taste"]) byId(id).replaceChildren();
  byId("told").textContent = "There are no ads; add one.";
  byId("lists").replaceChildren();
}

byId("compare").addEventListener("change", () => refresh());
byId("trouble").querySelector("button").addEventListener("click", () => attempt(() => (state.who ? refresh() : start())));
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key-text").value);
  attempt(() => (state.who ? refresh() : start()));
});
attempt(start);
