// The groups that a score's explanation has, and how they are named and drawn.

import { bar, el, signed } from "./dom.js";

export const GROUPS = [
  { name: "semantic", title: "LLM's knowledge", about: "what the student made of the LLM's words, for ad, user and past ads" },
  { name: "history", title: "Past ads", about: "which ads the user was shown and clicked, and how alike they are" },
  { name: "dense", title: "Facts and counts", about: "categories, numbers, click rates, the moment" },
  { name: "id", title: "Known by id", about: "what was learned by heart of this very ad and user" },
];

/** The shares of one candidate, in the groups' order. */
export function sharesAt(explanation, place) {
  return GROUPS.map((group) => explanation.shares[group.name][place]);
}

/** The largest sums of what lowers and what raises a score, to draw all by one scale. */
export function reach(explanation) {
  const places = explanation.shares.semantic.keys();
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
