// Makes elements. Text becomes text and never markup, whoever wrote it.

/** An element with attributes (`onclick` and the like are listeners, `false` and null leave one out) and children. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Gives `old` the children of `fresh`, but leaves the element `here` in it in the place of `there`, and all that it is in:
 * an element that is taken out loses the keyboard, and what is selected in it. */
export function renew(old, fresh, here, there) {
  const kept = [...old.children].find((child) => child.contains(here));
  const model = [...fresh.children].find((child) => child.contains(there));
  const children = [...fresh.childNodes];
  const place = children.indexOf(model);
  for (const child of [...old.childNodes]) if (child !== kept) child.remove();
  kept.before(...children.slice(0, place));
  kept.after(...children.slice(place + 1));
  for (const name of kept.getAttributeNames()) if (!model.hasAttribute(name)) kept.removeAttribute(name);
  for (const { name, value } of model.attributes) kept.setAttribute(name, value);
  if (kept === here) kept.replaceChildren(...model.childNodes);
  else renew(kept, model, here, there);
}

/** A bar from `start` over `length`, in percent of what it lies in. */
export function bar(kind, start, length) {
  const made = el("span", { class: `bar ${kind}`, "aria-hidden": "true" });
  made.style.left = `${start}%`;
  made.style.width = `${Math.max(length, 0)}%`;
  return made;
}

/** Calls once nothing has been asked for so many milliseconds. */
export function calm(call, pause) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(call, pause);
  };
}

/** A feature's name as people would write it. */
export const plain = (name) => name.replaceAll("_", " ");
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
