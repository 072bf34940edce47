// The lists of ads as the models rank them.

import { el, percent } from "./dom.js";
import { naming, reach, sharesAt, strip } from "./parts.js";

const RUNGS = {
  encoded: "read from its words",
  category_prior: "by its features",
  prior: "nothing is known of it",
  cached: "as last known",
};

/** Both lists. `ads` by id; `lead` and `other` are replies (`other` may be null), `selected` is an id, `unread` those of
 * ads whose texts are being read. `acts` has `select(id)`, `bid(id, value)` and `remove(id)`. */
export function ranking({ ads, lead, other, explanation, unread, selected, acts }) {
  const places = new Map((other?.candidates.id ?? []).map((id, place) => [id, place]));
  const most = explanation ? reach(explanation) : 1;
  const rows = lead.candidates.id.map((id, place) => {
    const rung = lead.degraded?.candidates?.[id];
    // An ad of which nothing is said has no effects of its own.
    const at = explanation && rung !== "prior" ? explanation.ids.indexOf(id) : -1;
    return adRow(ads.get(id), place, lead, {
      acts,
      moved: places.has(id) ? places.get(id) - place : null,
      isSelected: selected === id,
      mark: unread.has(id) ? "its words are being read" : RUNGS[rung],
      drawn: at < 0 ? null : strip(sharesAt(explanation, at), most),
    });
  });
  const others = (other?.candidates.id ?? []).map((id, place) => plainRow(ads.get(id), place, other));
  return [
    el("div", { class: "side" }, el("h3", {}, other ? naming.lead : ""), el("ol", { class: "ads" }, ...rows)),
    el("div", { class: "side without" }, el("h3", {}, other ? naming.other : ""), el("ol", { class: "ads other" }, ...others)),
  ];
}

function adRow(ad, place, reply, { acts, moved, isSelected, mark, drawn }) {
  const name = titleOf(ad);
  const bid = el("input", { type: "number", min: "0", step: "0.05", "aria-label": `Bid for ${name}`, onchange: () => acts.bid(ad.id, bid.value) });
  bid.value = ad.bid ?? "";
  const marks = el(
    "span", { class: "marks" },
    ad.own ? el("span", { class: "mark own" }, "your ad") : null, mark ? el("span", { class: "mark" }, mark) : null,
  );
  const title = { type: "button", class: "title", title: name, "aria-pressed": String(isSelected), onclick: () => acts.select(ad.id) };
  return el(
    "li", { class: isSelected ? "selected" : null, "data-id": ad.id },
    el("span", { class: "rank" }, place + 1),
    el("div", { class: "what" }, el("button", title, name), marks, drawn),
    move(moved),
    el("label", { class: "bid" }, el("span", {}, "bid"), bid),
    el("span", { class: "figures" }, ...figuresOf(reply, place)),
    el("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick: () => acts.remove(ad.id) }, "×"),
  );
}

function move(moved) {
  const [kind, arrow] = moved > 0 ? ["up", `▲ ${moved}`] : moved < 0 ? ["down", `▼ ${-moved}`] : ["", moved === null ? "" : "="];
  const places = Math.abs(moved) === 1 ? "place" : "places";
  const told = moved ? `${naming.mover} moves it ${kind} ${Math.abs(moved)} ${places}` : null;
  return el("span", { class: `move ${kind}`, title: told }, arrow);
}

function plainRow(ad, place, reply) {
  const name = titleOf(ad);
  return el(
    "li", { "data-id": ad.id }, el("span", { class: "rank" }, place + 1),
    el("div", { class: "what" }, el("span", { class: "title", title: name }, name)),
    el("span", { class: "figures" }, ...figuresOf(reply, place)),
  );
}

function figuresOf(reply, place) {
  const { pctr, ecpm } = reply.candidates;
  return [
    el("span", { class: "pctr" }, percent(pctr[place])),
    el("span", { class: "ecpm" }, ecpm[place] === null ? "no bid" : `eCPM ${ecpm[place].toFixed(0)}`),
  ];
}

export const titleOf = (ad) => (ad.own ? Object.values(ad.own.texts).find(Boolean) || "Your ad" : ad.title);
