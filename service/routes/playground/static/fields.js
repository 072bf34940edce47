// A form for features as the bundle describes them. Gives the values that were changed; null is “missing”.

import { el, plain } from "./dom.js";

let count = 0;

/** `fields` as `about` has them, `values` by name as they are, `changed(values)` is told all that were changed. */
export function fieldsOf(fields, values, changed) {
  const given = {};
  const set = (name, value) => {
    given[name] = value;
    changed({ ...given });
  };
  return el("div", { class: "fields" }, ...fields.map((field) => one(field, values[field.name] ?? null, set)));
}

function one(field, value, set) {
  const id = `field-${++count}`;
  const tell = (found) => set(field.name, found);
  if (field.kind === "bag" && field.values.length) return checks(field, value ?? [], tell);
  const input = field.kind === "categorical" && field.values.length ? select(field, value, tell) : text(field, value, tell);
  input.id = id;
  return el("div", { class: "field" }, el("label", { for: id }, plain(field.name)), input);
}

function select(field, value, tell) {
  const options = [el("option", { value: "" }, "–"), ...field.values.map((one) => el("option", { value: one }, one))];
  const made = el("select", { onchange: () => tell(made.value || null) }, ...options);
  made.value = value ?? "";
  return made;
}

function text(field, value, tell) {
  const isNumber = field.kind === "numeric";
  const read = () => {
    const typed = made.value.trim();
    if (!typed) return null;
    if (isNumber) return Number(typed);
    return field.kind === "bag" ? typed.split(",").map((one) => one.trim()).filter(Boolean) : typed;
  };
  const made = el("input", { type: isNumber ? "number" : "text", step: isNumber && "any", oninput: () => tell(read()) });
  made.value = Array.isArray(value) ? value.join(", ") : (value ?? "");
  return made;
}

function checks(field, value, tell) {
  const boxes = field.values.map((one) => el("input", { type: "checkbox", value: one, checked: value.includes(one) }));
  const read = () => {
    const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
    tell(chosen.length ? chosen : null);
  };
  const labels = boxes.map((box) => el("label", {}, box, box.value));
  const made = el("fieldset", { class: "checks", onchange: read }, el("legend", {}, plain(field.name)), ...labels);
  return made;
}
