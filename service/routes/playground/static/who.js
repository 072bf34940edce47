// The user, the moment and the history: picked, or written by hand.

import { calm, el, plain } from "./dom.js";
import { fieldsOf } from "./fields.js";
import { know } from "./api.js";
import { picker } from "./picker.js";
import { shown } from "./why.js";

const NOBODY = "somebody new";
const MOST_LEARNT = 200;

/** The panel. `asked` is what a request says of the user; `changed()` is called when it says something else, `attempt`
 * does what may fail, and `learn(ids)` puts what the service knows of past ads into `past`. */
export class Who {
  constructor({ place, about, past, learn, attempt, changed }) {
    Object.assign(this, { place, about, past, learn, attempt, changed });
    this.later = calm(changed, 150);
    this.context = { ...about.example.context };
    this.moment = this.contextFields();
  }

  /** What of a request is about the user and the moment. */
  get asked() {
    const user = {};
    if (this.history) user.history = this.history;
    if (Object.keys(this.features).length) user.features = this.features;
    return {
      user_id: this.user.id,
      context: this.context,
      at: this.about.example.at,
      ...(Object.keys(user).length ? { user } : {}),
    };
  }

  /** The history, as a request has it. */
  get seen() {
    return this.history ?? this.user.history.map(({ id, clicked, at }) => ({ item_id: id, clicked, at }));
  }

  /** Turns to another user. */
  async turnTo(id) {
    const user = await know("user", [["id", id]]);
    await this.learn(user.history.slice(-MOST_LEARNT).map(({ id }) => id));
    this.user = user;
    this.features = {};
    this.history = user.known ? null : [];
    this.draw();
    this.changed();
  }

  draw() {
    const { user, about, place } = this;
    const left = [...place.querySelectorAll(".picker input")].indexOf(document.activeElement);
    const isLeft = place.contains(document.activeElement);
    const find = picker({
      label: "Pick a user",
      hint: about.users ? "find by id" : "an id, and Enter",
      isFree: true,
      search: async (text) => (await know("users", [["text", text]])).users.map(({ id }) => ({ id, title: id })),
      choose: (id) => this.turnTo(id),
      attempt: this.attempt,
    });
    const anew = el("button", { type: "button", class: "second", onclick: () => this.attempt(() => this.turnTo(NOBODY)) }, "or write a history of your own");
    place.replaceChildren(
      find,
      anew,
      el("h3", {}, user.known ? `User ${user.id}` : "Somebody the service has not met"),
      ...this.facts(),
      ...this.clicks(),
      el("h4", {}, "The moment"),
      this.moment,
    );
    // All but the moment is new: who was here with the keyboard goes on where things are added.
    if (isLeft && !place.contains(document.activeElement)) [...place.querySelectorAll(".picker input")].at(left).focus();
  }

  facts() {
    const fields = this.about.fields.user;
    if (!fields.length) return [];
    const told = Object.entries(this.user.features).filter(([, value]) => value !== null && String(value) !== "");
    const brief = told.map(([name, value]) => `${plain(name)}: ${shown(value)}`).join(" · ");
    const form = fieldsOf(fields, this.user.features, (features) => {
      this.features = features;
      this.later();
    });
    return [
      ...(brief ? [el("p", { class: "quiet" }, brief)] : []),
      el("details", { open: !this.user.known }, el("summary", {}, "change the facts"), form),
    ];
  }

  clicks() {
    const { seen } = this;
    const change = (history) => {
      this.history = history;
      this.draw();
      this.changed();
    };
    const rows = seen.map(({ item_id: id, clicked, at: when }, place) => {
      const title = this.past.get(id)?.title ?? id;
      const told = [title, clicked ? "" : " (not clicked)", when ? `, ${new Date(1000 * when).toISOString().slice(0, 10)}` : ""];
      const drop = () => change(seen.filter((_, at) => at !== place));
      return el("li", {}, el("span", {}, ...told), el("button", { type: "button", class: "remove", "aria-label": `Remove ${title} from the history`, onclick: drop }, "×"));
    });
    const add = picker({
      label: "Add a click",
      hint: "find a title",
      search: async (text) => (await know("items", [["text", text]])).items,
      choose: async (id) => {
        await this.learn([id]);
        change([...seen, { item_id: id, clicked: true }]);
      },
      attempt: this.attempt,
    });
    const undo = this.history && this.user.known;
    return [
      el("h4", {}, `Clicked so far: ${seen.filter(({ clicked }) => clicked).length}`),
      add,
      el("ol", { class: "clicks", reversed: true }, ...rows.reverse()),
      ...(undo ? [el("button", { type: "button", class: "second", onclick: () => change(null) }, "as it is stored")] : []),
    ];
  }

  contextFields() {
    return fieldsOf(this.about.fields.context, this.context, (context) => {
      this.context = { ...this.context, ...context };
      this.later();
    });
  }
}
