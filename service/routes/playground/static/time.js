// Where a request's time went, by the reply's Server-Timing header: each stage where it began, one below the other.

import { bar, el } from "./dom.js";

const STAGES = [
  ["parse", "the request is read"],
  ["rows", "rows of user, ads and history are fetched; texts of new ads encoded"],
  ["queue", "waiting for its turn"],
  ["run", "the model scores all ads at once"],
  ["reply", "the reply is written"],
];

/** `ms` is how long the browser waited, `stages` what the service says; `explained` is what an explanation took more. */
export function waterfall({ stages, ms, explained, ads }) {
  const known = STAGES.slice(0, -1).reduce((sum, [name]) => sum + (stages[name] ?? 0), 0);
  const taken = { ...stages, reply: Math.max(0, stages.total - known) };
  const away = Math.max(0, ms - stages.total);
  let at = away / 2;
  const rows = [row("way", "network and browser, there and back", 0, ms, ms, away)];
  for (const [name, about] of STAGES) {
    rows.push(row(name, about, at, taken[name], ms, taken[name]));
    at += taken[name];
  }
  const says = `${ads} ads in ${stages.total.toFixed(1)} ms at the service, ${ms.toFixed(1)} ms with the way there and back.`;
  const more = explained ? ` The explanation above was asked for on its own and took ${explained.toFixed(1)} ms.` : "";
  return [el("p", {}, el("strong", {}, says), more), el("ul", { class: "waterfall" }, ...rows)];
}

function row(name, about, start, length, whole, shown) {
  const scale = 100 / Math.max(whole, 1e-9);
  return el(
    "li", { title: about },
    el("span", { class: "name" }, name === "way" ? "on the way" : name),
    el("span", { class: "track" }, bar(name === "way" ? "way" : "stage", start * scale, length * scale)),
    el("span", { class: "value" }, `${shown.toFixed(2)} ms`),
    el("span", { class: "about" }, about),
  );
}
