// A field that finds things by what is typed (the combobox of WAI-ARIA 1.2): arrows choose, Enter takes (the first,
// where none is chosen), Escape closes.

import { el } from "./dom.js";

let count = 0;

/** `search(text)` promises `[{id, title}]`; `choose(id, title)` is told. `isFree`: what was typed may be an id itself. */
export function picker({ label, hint, search, choose, isFree = false }) {
  const id = `picker-${++count}`;
  const list = el("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const input = el("input", {
    id, type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", placeholder: hint,
    "aria-controls": `${id}-list`, "aria-autocomplete": "list", "aria-expanded": "false",
  });
  let found = [], foundBy = null, at = -1, asked = 0;

  function close() {
    asked += 1;
    list.hidden = true;
    at = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function take(one) {
    close();
    input.value = "";
    choose(one.id, one.title);
  }

  function point(place) {
    at = found.length ? (place + found.length) % found.length : -1;
    [...list.children].forEach((option, number) => option.setAttribute("aria-selected", String(number === at)));
    if (at < 0) return;
    input.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  }

  async function open() {
    const mine = ++asked;
    const text = input.value;
    let things = [];
    let says = nothing(text);
    try {
      things = await search(text);
    } catch (error) {
      says = error.message;
    }
    if (mine !== asked) return;
    found = things;
    foundBy = text;
    const options = found.map((one, place) =>
      el("li", { id: `${id}-${place}`, role: "option", "aria-selected": "false", onclick: () => take(one) }, one.title),
    );
    list.replaceChildren(...options);
    if (!options.length) list.append(el("li", { class: "quiet", role: "presentation" }, says));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
  }

  const nothing = (text) => (isFree && text ? `Enter takes “${text}” as an id` : "nothing found");
  const keys = {
    ArrowDown: () => (list.hidden ? open() : point(at + 1)),
    ArrowUp: () => point(at < 0 ? found.length - 1 : at - 1),
    Escape: close,
    Enter: async () => {
      const typed = input.value.trim();
      if (at >= 0) take(found[at]);
      else if (isFree && typed) take({ id: typed, title: typed });
      else if (typed) {
        if (list.hidden || foundBy !== input.value) await open();
        if (found.length && foundBy === input.value) take(found[0]);
      }
    },
  };
  input.addEventListener("input", open);
  input.addEventListener("click", () => list.hidden && open());
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  // A press on an option must not take the focus, which would close the list before the click.
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  return el("div", { class: "picker" }, el("label", { for: id }, label), input, list);
}
