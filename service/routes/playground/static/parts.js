// The groups that a score's explanation has, and how they and the models are named and drawn.

import { bar, el, signed } from "./dom.js";

const KNOWLEDGE = { title: "LLM's knowledge", about: "what the student made of the LLM's words, for ad, user and past ads" };
const TEXTS = { title: "Texts", about: "what the encoder made of the texts of the ad and of past ads" };
const REST = [
  { name: "history", title: "Past ads", about: "which ads the user was shown and clicked, and how alike they are" },
  { name: "dense", title: "Facts and counts", about: "categories, numbers, click rates, the moment" },
  { name: "id", title: "Known by id", about: "what was learned by heart of this very ad and user" },
];

export const GROUPS = [...REST];
/** Whether an LLM taught the served model, and what the page calls that model and the one it is compared with. */
export const naming = {};

/** Names all by what the bundle says of the served model: `semantics` is "knowledge", "texts" or null. */
export function nameBy({ semantics }) {
  const isTaught = semantics === "knowledge";
  const group = { name: "semantic", ...(isTaught ? KNOWLEDGE : TEXTS) };
  GROUPS.splice(0, GROUPS.length, ...(semantics ? [group] : []), ...REST);
  Object.assign(naming, { isTaught, ...(isTaught ? BY_KNOWLEDGE : BY_MODEL) });
}

const BY_KNOWLEDGE = {
  compared: "the same model without the LLM's knowledge", without: "The model without the LLM's knowledge",
  lead: "With the LLM's knowledge", other: "Without it", mover: "the LLM's knowledge",
};
const BY_MODEL = {
  compared: "another model", without: "The other model", lead: "This model", other: "The other model", mover: "this model",
};

/** The shares of one candidate, in the groups' order. */
export function sharesAt(explanation, place) {
  return GROUPS.map((group) => explanation.shares[group.name][place]);
}

/** The largest sums of what lowers and what raises a score, to draw all by one scale. */
export function reach(explanation) {
  const places = explanation.ids.keys();
  const sums = [...places].flatMap((place) => {
    const shares = sharesAt(explanation, place);
    return [1, -1].map((sign) => shares.reduce((sum, share) => sum + Math.max(0, sign * share), 0));
  });
  return Math.max(0.5, ...sums);
}

/** All shares of a candidate in one line: what lowers the score to the left of the middle, what raises it to the right. */
export function strip(shares, most) {
  const ends = { up: 50, down: 50 };
  const bars = shares.map((share, place) => {
    const length = (50 * Math.abs(share)) / most;
    if (share >= 0) ends.up += length;
    else ends.down -= length;
    return bar(GROUPS[place].name, share >= 0 ? ends.up - length : ends.down, length);
  });
  const words = shares.map((share, place) => `${GROUPS[place].title} ${signed(share)}`).join(", ");
  return el("span", { class: "strip", role: "img", "aria-label": words, title: words }, ...bars);
}

/** What the colours stand for. */
export function legend() {
  const items = GROUPS.map((group) =>
    el("li", { title: group.about }, el("span", { class: `dot ${group.name}`, "aria-hidden": "true" }), group.title),
  );
  return [
    el("span", {}, "What each score came of: "),
    el("ul", {}, ...items),
    el("span", { class: "quiet" }, "left of the line it lowers the score, right of it it raises it"),
  ];
}
