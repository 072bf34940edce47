// Asks the service, and says in words what went wrong. Keeps a key in memory alone.

const base = new URL("../../", import.meta.url);
let key = "";

/** What the service, or the way to it, has to say; `status` is 0 where nobody answered. */
export class Trouble extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether the service had too much to do, so that the same may go well another time. */
  get isForWantOfTime() {
    return this.status === 429 || this.status === 504;
  }
}

/** From now on the service is asked with this key. */
export function useKey(given) {
  key = given;
}

/** What the page's own routes know. `params` may name one thing many times. */
export async function know(name, params = []) {
  const query = new URLSearchParams(params);
  return ask(`playground/data/${name}?${query}`, {});
}

/** The reply to a scoring request. */
export function score(request, isWithout = false) {
  const body = JSON.stringify(request);
  const path = isWithout ? "playground/score-without" : "v1/score";
  return ask(path, { method: "POST", body, headers: { "content-type": "application/json" } });
}

async function ask(path, options) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let answer, text;
  try {
    answer = await fetch(new URL(path, base), { ...options, headers, credentials: "omit" });
    text = await answer.text();
  } catch {
    throw new Trouble("The service does not answer. Is it running, and can this machine reach it?", 0);
  }
  const body = parsed(text);
  if (!answer.ok || body === null) throw new Trouble(said(body, answer.status), answer.status);
  return body;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function said(body, status) {
  const error = body?.error;
  if (!error) return `The service answered ${status}, and not in its usual form.`;
  return `The service says: ${error.message}${error.field ? ` (${error.field})` : ""}`;
}
