// An ad in your own words: its text as the bundle's template makes it of what is typed, and its features.

import { el, plain } from "./dom.js";
import { fieldsOf } from "./fields.js";

/** A new ad, of which nothing is known but what will be typed. */
export const newAd = (id, bid) => ({ id, bid, title: "Your ad", own: { texts: {}, features: {} } });

/** What a request says of it. */
export function described(ad, about) {
  const features = Object.fromEntries(Object.entries(ad.own.features).filter(([, value]) => value !== null));
  const text = textOf(ad, about);
  return { ...(text ? { text } : {}), ...(Object.keys(features).length ? { features } : {}) };
}

/** The form; `changed()` is called at each change. */
export function editor(ad, about, changed) {
  const areas = placesOf(about).filter((name) => !featureOf(about, name)).map((name) => {
    const area = el("textarea", { id: `own-${name}`, rows: "3", maxlength: "5000", placeholder: "title and copy, in your own words" });
    area.value = ad.own.texts[name] ?? "";
    area.addEventListener("input", () => {
      ad.own.texts[name] = area.value;
      changed();
    });
    return el("div", { class: "field" }, el("label", { for: `own-${name}` }, plain(name)), area);
  });
  const fields = fieldsOf(about.fields.item, ad.own.features, (features) => {
    ad.own.features = { ...ad.own.features, ...features };
    changed();
  });
  const note = about.encodes_texts
    ? "The encoder reads the words as you type; no LLM is asked."
    : "This service does not read texts (it has no encoder): your ad is scored by its features alone.";
  return [el("h3", {}, "Your ad"), el("p", { class: "quiet" }, note), ...areas, fields];
}

/** As the export makes an item's text of its columns: missing values leave their places empty. */
function textOf(ad, about) {
  const value = (name) => {
    const known = featureOf(about, name) ? ad.own.features[name] : ad.own.texts[name]?.trim();
    return Array.isArray(known) ? known.join(", ") : (known ?? "");
  };
  const names = placesOf(about);
  if (!names.some((name) => value(name) !== "")) return "";
  if (!about.item_text) return value(names[0]);
  return about.item_text.replace(/\{(\w+)\}/g, (_, name) => value(name)).trim();
}

function placesOf(about) {
  const found = [...(about.item_text ?? "{text}").matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
  return [...new Set(found)];
}

const featureOf = (about, name) => about.fields.item.find((field) => field.name === name);
