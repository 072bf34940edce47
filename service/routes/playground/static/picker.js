// A field that finds things by what is typed, in the browser's list; Enter takes the first where none is chosen.

import { el } from "./dom.js";

let count = 0;

/** `search(text)` promises `[{id, title}]`; `choose(id)` is told; both may fail, which `attempt` says. `isFree`: what was
 * typed may be an id itself. */
export function picker({ label, hint, search, choose, attempt, isFree = false }) {
  const id = `picker-${++count}`;
  const list = el("datalist", { id: `${id}-list` });
  const input = el("input", { id, list: `${id}-list`, autocomplete: "off", spellcheck: "false", placeholder: hint });
  async function offer() {
    const text = input.value;
    const found = await search(text);
    if (text === input.value) list.replaceChildren(...found.map(({ title }) => el("option", { value: title })));
  }
  async function take(isChosen) {
    const typed = input.value.trim();
    if (!typed) return;
    const found = await search(typed);
    const instead = isFree ? { id: typed } : found[0];
    const one = found.find(({ title }) => title === typed) ?? (isChosen ? null : instead);
    if (!one || input.value.trim() !== typed) return;
    input.value = "";
    await choose(one.id);
  }
  for (const event of ["focus", "input"]) input.addEventListener(event, () => attempt(offer));
  input.addEventListener("change", () => attempt(() => take(true)));
  input.addEventListener("keydown", (event) => event.key === "Enter" && attempt(() => take(false)));
  return el("div", { class: "picker" }, el("label", { for: id }, label), input, list);
}
