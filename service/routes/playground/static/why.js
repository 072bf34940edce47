// What is to be said of one ad: what its score came of, which past ads counted, what the LLM wrote and what is known.

import { bar, el, percent, plain, signed } from "./dom.js";
import { GROUPS, naming, sharesAt } from "./parts.js";
import { titleOf } from "./ranking.js";

const SHOWN_CLICKS = 6;

/** `lead` is a reply, `explanation` and `without` are those of both models, or null and `unexplained` says why.
 * `past` are the past ads by id. */
export function why({ ad, lead, explanation, without, unexplained, past }) {
  const place = lead.candidates.id.indexOf(ad.id);
  const pctr = lead.candidates.pctr[place];
  const children = [
    el("h3", {}, titleOf(ad)),
    el("p", { class: "quiet" }, `place ${place + 1} of ${lead.candidates.id.length}, pCTR ${percent(pctr)}`),
  ];
  if (unexplained) children.push(el("p", { class: "unexplained" }, unexplained));
  const at = explanation ? explanation.ids.indexOf(ad.id) : -1;
  if (at >= 0) {
    children.push(shares("What the score came of", explanation, at, pctr));
    const there = without ? without.ids.indexOf(ad.id) : -1;
    if (there >= 0) children.push(shares(naming.without, without, there, without.pctr[there]));
    children.push(...clicks(explanation, at, past));
  }
  return [...children, ...(naming.isTaught ? teacher(ad) : []), ...known(ad)];
}

function shares(title, explanation, at, pctr) {
  const values = sharesAt(explanation, at);
  const most = Math.max(0.5, ...values.map(Math.abs));
  const rows = GROUPS.map((group, place) => diverging(group.title, group.about, values[place], most, group.name));
  return el(
    "div", { class: "came" },
    el("h4", {}, title),
    el("p", { class: "ends" }, "if nothing were known ", el("strong", {}, percent(explanation.base))),
    el("ul", { class: "bars" }, ...rows),
    el("p", { class: "ends" }, "with all that is known ", el("strong", {}, percent(pctr))),
  );
}

/** A line with a bar to the right of the middle for what raises a score, to the left for what lowers it. */
export function diverging(title, about, value, most, kind) {
  const length = (50 * Math.abs(value)) / most;
  const times = Math.exp(value);
  return el(
    "li", { title: about },
    el("span", { class: "name" }, title),
    el("span", { class: "track" }, bar(kind, value < 0 ? 50 - length : 50, length)),
    el("span", { class: "value", title: `log-odds ${signed(value)}` }, `odds × ${times >= 9.95 ? times.toFixed(0) : times.toFixed(2)}`),
  );
}

function clicks(explanation, at, past) {
  const effects = explanation.history.effect[at];
  const strongest = explanation.history.id
    .map((id, place) => ({ id, effect: effects[place] }))
    .sort((one, other) => Math.abs(other.effect) - Math.abs(one.effect))
    .slice(0, SHOWN_CLICKS);
  if (!strongest.length) return [el("h4", {}, "Past ads"), el("p", { class: "quiet" }, "There are none.")];
  const most = Math.max(0.05, ...strongest.map((one) => Math.abs(one.effect)));
  const rows = strongest.map((one) =>
    diverging(past.get(one.id)?.title ?? one.id, "how much less likely the click would be without it", one.effect, most, "history"),
  );
  return [el("h4", {}, "Past ads that counted most"), el("ul", { class: "bars clicks" }, ...rows)];
}

function teacher(ad) {
  const title = el("h4", {}, "What the LLM wrote of it");
  if (ad.own) return [title, el("p", { class: "quiet" }, "Nothing: no LLM was asked. The student has read your words.")];
  return [title, ...words(ad)];
}

/** What the teacher wrote of an ad or a user. */
export function words(known) {
  if (!known.explicit) return [el("p", { class: "quiet" }, "Nothing.")];
  const tags = (known.tags ?? []).map((tag) => el("li", {}, tag));
  return [
    el("p", { class: "wrote" }, el("span", { class: "level" }, "facts"), known.explicit),
    el("p", { class: "wrote" }, el("span", { class: "level" }, "between the lines"), known.implicit),
    ...(tags.length ? [el("ul", { class: "tags", "aria-label": "tags" }, ...tags)] : []),
  ];
}

function known(ad) {
  const features = Object.entries(ad.features ?? {}).filter(([, value]) => value !== null && String(value) !== "");
  if (ad.own || !features.length) return [];
  const rows = features.map(([name, value]) => el("div", {}, el("dt", {}, plain(name)), el("dd", {}, shown(value))));
  return [el("h4", {}, "Its facts"), el("dl", {}, ...rows)];
}

/** A feature's value as text. */
export const shown = (value) => (Array.isArray(value) ? value.join(", ") : String(value));
