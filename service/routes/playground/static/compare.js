// Two texts of ads: which of them is expected to win, and how often a difference like theirs was right.

import { score } from "./api.js";
import { calm, el, percent } from "./dom.js";
import { described, newAd } from "./own.js";

const IDS = ["text-a", "text-b"];
const NAMES = ["A", "B"];
const PAUSE = 300;
const TRIES = 20;

/** Fills `place`. `asked()` gives user, context and time of a request; `attempt` says what goes wrong. */
export function comparison({ place, about, asked, attempt }) {
  const ads = IDS.map((id) => newAd(id, null));
  const told = el("p", { class: "quiet", role: "status" }, "Write both, and the model says which would be clicked more.");
  const name = [...(about.item_text ?? "{text}").matchAll(/\{(\w+)\}/g)].map((match) => match[1])[0];
  let number = 0;
  const refresh = (tries = TRIES) => {
    const own = ++number;
    return attempt(async () => {
      const items = Object.fromEntries(ads.map((ad) => [ad.id, described(ad, about)]));
      if (ads.some((ad) => !items[ad.id].text)) return;
      const body = await score({ ...asked(), candidates: { id: IDS }, items, top_k: IDS.length });
      if (own !== number) return;
      // A text is read a moment after it was first asked about.
      const isUnread = IDS.some((id) => body.degraded?.candidates?.[id] !== "encoded");
      if (isUnread && tries) return setTimeout(() => own === number && refresh(tries - 1), PAUSE);
      told.replaceChildren(...(isUnread ? ["The service did not get to read these texts; try again."] : verdict(body.candidates, about)));
    });
  };
  const soon = calm(() => refresh(), PAUSE);
  const areas = ads.map((ad, at) => {
    const area = el("textarea", { id: IDS[at], rows: "2", maxlength: "5000", oninput: () => {
      ad.own.texts[name] = area.value;
      soon();
    } });
    return el("div", { class: "field" }, el("label", { for: IDS[at] }, `Text ${NAMES[at]}`), area);
  });
  place.replaceChildren(...areas, told);
}

const rate = (share) => `${(100 * share).toFixed(2)} %`;

function verdict({ id, pctr }, about) {
  const [winner, loser] = pctr;
  const gap = Math.log(winner / (1 - winner)) - Math.log(loser / (1 - loser));
  const step = about.how_sure.findLast((one) => gap >= one.above);
  const sure = step ? ` Of ${step.pairs} held-out pairs scored about as far apart, it was right about ${percent(step.right)}.` : "";
  if (winner === loser) return ["Both are expected to be clicked alike."];
  return [
    el("strong", {}, `${NAMES[IDS.indexOf(id[0])]} is expected to win`),
    `: ${rate(winner)} against ${rate(loser)} clicks.${sure}`,
  ];
}
