// Keys for other people: make, list, revoke; and what each has used.

import { ask } from "./client.js";
import { h } from "./dom.js";
import { clock, number, short, visible } from "./format.js";

let view = null;

export function open(_, state, redraw) {
  view = { keys: null, usage: new Map(), error: "", made: null, redraw };
  load();
}

export function close() { view = null; }

async function load() {
  const mine = view;
  try {
    const [keys, usage] = await Promise.all([ask("GET", "/v1/keys"), ask("GET", "/v1/usage?by=key&since=30d")]);
    Object.assign(mine, { keys: keys.keys, usage: new Map(usage.lines.map((line) => [line.name, line])), error: "" });
  } catch (error) { mine.error = error.message; }
  mine.redraw();
}

async function attempt(work) {
  const mine = view;
  try { await work(mine); } catch (error) { mine.error = error.message; mine.redraw(); }
}

function add(event) {
  event.preventDefault();
  const form = event.target, of = (name) => form.elements[name].value.trim();
  const request = { name: of("name") };
  if (of("expires")) request.expires_in = of("expires");
  if (of("tokens")) request.tokens_per_minute = Number(of("tokens"));
  if (of("requests")) request.requests_per_minute = Number(of("requests"));
  attempt(async (mine) => { mine.made = await ask("POST", "/v1/keys", request); form.reset(); await load(); });
}

function revoke(name) {
  if (!confirm(`Revoke the key ${name}? Its holder is refused from then on.`)) return;
  attempt(async () => { await ask("DELETE", `/v1/keys/${encodeURIComponent(name)}`); await load(); });
}

export function show() {
  if (!view) return null;
  return h("div", { class: "page" },
    h("section", { "aria-labelledby": "keys" }, h("div", { class: "title" }, h("h2", { id: "keys" }, "Keys of other people")),
      view.error ? h("p", { class: "problem", role: "alert" }, visible(view.error)) : null,
      view.made ? h("div", { class: "banner", role: "status" }, h("h2", {}, `The key of ${visible(view.made.name)}, shown this once`), h("p", {}, h("code", {}, view.made.key)),
        h("button", { type: "button", onclick: () => navigator.clipboard.writeText(view.made.key) }, "Copy")) : null,
      view.keys && view.keys.length ? h("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "keys" }, h("table", {}, h("thead", {}, h("tr", {}, ["name", "made", "expires", "requests a minute", "tokens a minute", "requests, 30 days", "tokens, 30 days", ""].map((word, index) => h("th", { key: index, scope: "col", class: index > 2 && index < 7 ? "n" : null }, word || h("span", { class: "unseen" }, "actions"))))),
        h("tbody", {}, view.keys.map((key) => row(key))))) : view.keys ? h("p", { class: "empty" }, "Only your own key of .env opens the proxy. Make one for each person below.") : h("p", { class: "empty" }, "Reading.")),
    h("section", { "aria-labelledby": "new" }, h("h2", { id: "new" }, "A new key"), h("form", { onsubmit: add, class: "fields" },
      h("label", {}, "Name", h("input", { name: "name", required: true, maxlength: "63", spellcheck: "false", placeholder: "a person or a program" })),
      h("label", {}, "Expires in", h("input", { name: "expires", placeholder: "never, or e.g. 30d" })),
      h("label", {}, "Requests a minute", h("input", { name: "requests", type: "number", min: "1", placeholder: "no limit" })),
      h("label", {}, "Tokens a minute", h("input", { name: "tokens", type: "number", min: "1", placeholder: "no limit" })),
      h("button", { type: "submit", class: "main" }, "Make a key"))));
}

function row(key) {
  const used = view.usage.get(key.name);
  return h("tr", { key: key.name }, h("td", {}, visible(key.name)), h("td", {}, clock(key.created_at)), h("td", {}, key.expires_at ? `${key.expired ? "expired " : ""}${clock(key.expires_at)}` : "never"),
    h("td", { class: "n" }, key.requests_per_minute ? number(key.requests_per_minute) : "no limit"), h("td", { class: "n" }, key.tokens_per_minute ? number(key.tokens_per_minute) : "no limit"), h("td", { class: "n" }, used ? number(used.requests) : "0"),
    h("td", { class: "n" }, used ? short(used.input_tokens + used.cached_tokens + used.output_tokens) : "0"),
    h("td", { class: "n" }, h("button", { type: "button", "aria-label": `Revoke ${visible(key.name)}`, onclick: () => revoke(key.name) }, "Revoke")));
}
