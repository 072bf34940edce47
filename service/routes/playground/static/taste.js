// What a user is drawn to: the share of their past ads in the scores of these ads, by what the ads are.

import { bar, el } from "./dom.js";
import { diverging, words } from "./why.js";

/** `ads` by id are those that were scored and explained, `explanation` may be null; `seen` is the user's history, whose
 * ads `known` has by id. `fields` are the item's, `user` is what is known of them. */
export function taste({ ads, explanation, seen, known, fields, user }) {
  const effects = explanation && seen.length ? effectsOf(ads, explanation, fields) : new Map();
  const rows = [...effects].map(([kind, found]) => {
    const past = seen.filter(({ item_id: id }) => kindsOf(known.get(id), fields).includes(kind));
    const mean = found.reduce((sum, effect) => sum + effect, 0) / found.length;
    return { kind, mean, least: Math.min(...found), most: Math.max(...found), ads: found.length, past };
  });
  const reach = Math.max(0.05, ...rows.flatMap(({ least, most }) => [-least, most]));
  return [
    el("p", { class: "quiet" }, rows.length ? EXPLAINED : "Nothing can be said: no past ads, or no explained scores."),
    el("ul", { class: "bars" }, ...rows.sort((one, other) => other.mean - one.mean).map((row) => drawn(row, reach))),
    ...(user.words ? [el("h4", {}, "What the LLM wrote of this user"), ...words(user.words)] : []),
  ];
}

const EXPLAINED =
  "How far past ads raise (right) or lower (left) the scores of the ads above, on average by kind. The thin line spans" +
  " all ads of a kind: the longer it is, the less sure is the average. In brackets: clicks among past ads of the kind.";

function effectsOf(ads, explanation, fields) {
  const effects = new Map();
  explanation.ids.forEach((id, place) => {
    for (const kind of kindsOf(ads.get(id), fields)) {
      effects.set(kind, [...(effects.get(kind) ?? []), explanation.shares.history[place]]);
    }
  });
  return effects;
}

/** Values of an ad's categorical features and bags. */
function kindsOf(ad, fields) {
  const told = fields.filter((field) => field.values?.length).flatMap((field) => ad?.features?.[field.name] ?? []);
  return [...new Set(told)];
}

function drawn({ kind, mean, least, most, ads, past }, reach) {
  const clicked = past.filter((seen) => seen.clicked).length;
  const about = `${ads} of the ads above; ${past.length} past ads, ${clicked} of them clicked`;
  const row = diverging(`${kind} (${clicked} of ${past.length})`, about, mean, reach, "history");
  const [start, end] = [least, most].map((effect) => 50 + (50 * effect) / reach);
  row.querySelector(".track").append(bar("spread", start, end - start));
  return row;
}
