// The lists of ads as the models rank them. Rows stay the same elements while they move, so that who types goes on typing.

import { el, percent, svg } from "./dom.js";
import { naming, reach, sharesAt, strip } from "./parts.js";

const RUNGS = {
  encoded: "read from its words",
  category_prior: "by its features",
  prior: "nothing is known of it",
  cached: "as last known",
};

/** Fills `place`. `acts` has `select(id)`, `bid(id, value)` and `remove(id)`. */
export class Ranking {
  constructor(place, acts) {
    this.place = place;
    this.acts = acts;
    this.rows = new Map();
    this.lead = el("ol", { class: "ads" });
    this.other = el("ol", { class: "ads other" });
    this.links = svg("svg", { class: "links", "aria-hidden": "true", preserveAspectRatio: "none" });
    this.leadTitle = el("h3", {});
    this.otherTitle = el("h3", {});
    this.pair = el(
      "div", { class: "pair" },
      el("div", { class: "side" }, this.leadTitle, this.lead),
      this.links,
      el("div", { class: "side without" }, this.otherTitle, this.other),
    );
    place.replaceChildren(this.pair);
  }

  /** `ads` by id; `lead` and `other` are replies (`other` may be null), `selected` is an id, `unread` those of ads whose
   * texts are being read. */
  show({ ads, lead, other, explanation, unread, selected }) {
    const ranked = lead.candidates.id;
    const places = new Map((other?.candidates.id ?? []).map((id, place) => [id, place]));
    const most = explanation ? reach(explanation) : 1;
    this.pair.classList.toggle("both", other !== null);
    this.leadTitle.textContent = other ? naming.lead : "";
    this.otherTitle.textContent = other ? naming.other : "";
    for (const [id, row] of this.rows) {
      if (ads.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    ranked.forEach((id, place) => {
      const row = this.row(ads.get(id));
      row.update(place, lead, places.has(id) ? places.get(id) - place : null, selected === id, unread.has(id));
      // An ad of which nothing is said has no effects of its own.
      const isUnknown = lead.degraded?.candidates?.[id] === "prior";
      const at = explanation && !isUnknown ? explanation.ids.indexOf(id) : -1;
      row.parts.replaceChildren(...(at < 0 ? [] : [strip(sharesAt(explanation, at), most)]));
    });
    arrange(this.lead, ranked.map((id) => this.rows.get(id).element));
    this.other.replaceChildren(...(other?.candidates.id ?? []).map((id, place) => plainRow(ads.get(id), place, other)));
    this.link(ranked, places);
  }

  row(ad) {
    if (!this.rows.has(ad.id)) this.rows.set(ad.id, adRow(ad, this.acts));
    return this.rows.get(ad.id);
  }

  link(ranked, places) {
    this.links.setAttribute("viewBox", `0 0 10 ${Math.max(1, ranked.length)}`);
    const lines = ranked.flatMap((id, place) => {
      if (!places.has(id)) return [];
      const there = places.get(id);
      const kind = there > place ? "up" : there < place ? "down" : "same";
      const path = `M0 ${place + 0.5} C4 ${place + 0.5} 6 ${there + 0.5} 10 ${there + 0.5}`;
      return [svg("path", { class: kind, d: path, "vector-effect": "non-scaling-stroke" })];
    });
    this.links.replaceChildren(...lines);
  }
}

function adRow(ad, acts) {
  const rank = el("span", { class: "rank" });
  const title = el("button", { type: "button", class: "title", onclick: () => acts.select(ad.id) });
  const marks = el("span", { class: "marks" });
  const parts = el("span", { class: "parts" });
  const move = el("span", { class: "move" });
  const bid = el("input", { type: "number", min: "0", step: "0.05", oninput: () => acts.bid(ad.id, bid.value) });
  bid.value = ad.bid ?? "";
  const figures = el("span", { class: "figures" });
  const remove = el("button", { type: "button", class: "remove", onclick: () => acts.remove(ad.id) }, "×");
  const element = el(
    "li", {}, rank, el("div", { class: "what" }, title, marks, parts), move,
    el("label", { class: "bid" }, el("span", {}, "bid"), bid), figures, remove,
  );
  element.dataset.id = ad.id;

  function update(place, reply, moved, isSelected, isUnread) {
    const name = titleOf(ad);
    rank.textContent = place + 1;
    title.textContent = name;
    title.setAttribute("aria-pressed", String(isSelected));
    title.setAttribute("title", name);
    element.classList.toggle("selected", isSelected);
    bid.setAttribute("aria-label", `Bid for ${name}`);
    remove.setAttribute("aria-label", `Remove ${name}`);
    const rung = isUnread ? "its words are being read" : RUNGS[reply.degraded?.candidates?.[ad.id]];
    marks.replaceChildren(
      ...(ad.own ? [el("span", { class: "mark own" }, "your ad")] : []),
      ...(rung ? [el("span", { class: "mark" }, rung)] : []),
    );
    figures.replaceChildren(...figuresOf(reply, place));
    move.className = `move ${moved > 0 ? "up" : moved < 0 ? "down" : ""}`;
    move.textContent = moved === null ? "" : moved > 0 ? `▲ ${moved}` : moved < 0 ? `▼ ${-moved}` : "=";
    const places = Math.abs(moved) === 1 ? "place" : "places";
    if (moved) move.title = `${naming.mover} moves it ${moved > 0 ? "up" : "down"} ${Math.abs(moved)} ${places}`;
    else move.removeAttribute("title");
  }
  return { element, parts, update };
}

function plainRow(ad, place, reply) {
  const name = titleOf(ad);
  const element = el(
    "li", {}, el("span", { class: "rank" }, place + 1),
    el("div", { class: "what" }, el("span", { class: "title", title: name }, name)),
    el("span", { class: "figures" }, ...figuresOf(reply, place)),
  );
  element.dataset.id = ad.id;
  return element;
}

function figuresOf(reply, place) {
  const { pctr, ecpm } = reply.candidates;
  return [
    el("span", { class: "pctr" }, percent(pctr[place])),
    el("span", { class: "ecpm" }, ecpm[place] === null ? "no bid" : `eCPM ${ecpm[place].toFixed(0)}`),
  ];
}

export const titleOf = (ad) => (ad.own ? Object.values(ad.own.texts).find(Boolean) || "Your ad" : ad.title);

/** Puts the elements in order without moving the one that has the focus: it would lose it. */
function arrange(list, elements) {
  const fixed = elements.findIndex((element) => element.contains(document.activeElement));
  const anchor = elements[fixed];
  elements.forEach((element, place) => {
    if (fixed < 0 || place > fixed) list.append(element);
    else if (place < fixed) list.insertBefore(element, anchor);
  });
}
