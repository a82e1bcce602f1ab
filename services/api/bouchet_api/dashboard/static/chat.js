// A chat with a ready model, to try it without a client. It is kept in this page only.

import { send } from "./client.js";
import { h } from "./dom.js";
import { number, seconds, short, visible } from "./format.js";
import { markdown } from "./markdown.js";

const DRAFT = { model: "", system: "", turns: [], error: "", stop: null };
let chat = null, redraw = () => {};

export function open(name, state, redrawPage) {
  redraw = redrawPage;
  if (!chat) chat = { ...DRAFT };
  if (name) chat.model = name;
}

export function close() {}

function ready(state) { return state.status ? state.status.deployments.filter((one) => one.phase === "ready" || one.phase === "parked") : []; }

async function answer(state) {
  const models = ready(state), model = chat.model || (models[0] && models[0].names[0]);
  const mine = { role: "assistant", text: "", started: performance.now(), first: 0, ended: 0, pieces: 0, usage: null, model };
  const messages = [...(chat.system.trim() ? [{ role: "system", content: chat.system }] : []), ...chat.turns.map((turn) => ({ role: turn.role, content: turn.text }))];
  chat.turns.push(mine);
  Object.assign(chat, { error: "", stop: new AbortController() });
  redraw();
  try {
    const response = await send("POST", "/v1/chat", { model, messages }, {}, chat.stop.signal);
    await readEvents(response.body.getReader(), mine);
  } catch (error) {
    if (error.name !== "AbortError") chat.error = error.message;
    else mine.isStopped = true;
  }
  mine.ended = performance.now();
  chat.stop = null;
  if (!mine.text && chat.error) chat.turns.pop();
  redraw();
}

async function readEvents(reader, mine) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) take(event, mine);
    keepAtEnd();
    redraw();
  }
}

function take(event, mine) {
  const lines = event.split("\n"), name = (lines.find((line) => line.startsWith("event: ")) || "").slice(7);
  const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
  if (!data) return;
  const found = JSON.parse(data);
  if (name === "problem") { chat.error = found.detail; return; }
  if (found.error) { chat.error = found.error.message || "The model reports an error."; return; }
  if (found.usage) mine.usage = found.usage;
  const piece = found.choices && found.choices[0] && found.choices[0].delta && found.choices[0].delta.content;
  if (!piece) return;
  if (!mine.first) mine.first = performance.now();
  mine.text += piece;
  mine.pieces += 1;
}

function keepAtEnd() {
  const talk = document.getElementById("talk");
  if (talk && talk.scrollTop + talk.clientHeight > talk.scrollHeight - 80) requestAnimationFrame(() => requestAnimationFrame(() => { talk.scrollTop = talk.scrollHeight; }));
}

export function show(state) {
  const models = ready(state), isBusy = chat.stop !== null;
  const submit = (event) => {
    event.preventDefault();
    const field = document.getElementById("question"), text = field.value.trim();
    if (!text || isBusy || !models.length) return;
    field.value = "";
    chat.turns.push({ role: "user", text });
    answer(state);
  };
  const keydown = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event); };
  const again = () => { while (chat.turns.length && chat.turns[chat.turns.length - 1].role === "assistant") chat.turns.pop(); answer(state); };
  return h("div", { class: "chat" },
    h("div", { class: "settings" }, h("label", {}, "Model", h("select", { value: chat.model || undefined, onchange: (event) => { chat.model = event.target.value; } }, models.map((one) => h("option", { key: one.id, value: one.names[0] }, `${visible(one.names[0])}${one.phase === "parked" ? " (parked: the first question starts it)" : ""}`)))),
      h("button", { type: "button", onclick: () => { if (chat.stop) chat.stop.abort(); chat = { ...DRAFT, model: chat.model, system: chat.system, turns: [] }; redraw(); } }, "New chat"),
      h("details", { class: "wide" }, h("summary", {}, "System prompt"), h("label", {}, h("span", { class: "unseen" }, "System prompt"), h("textarea", { rows: "4", onchange: (event) => { chat.system = event.target.value; } })))),
    h("div", { id: "talk", class: "talk", tabindex: "0", role: "log", "aria-label": "Chat", "aria-live": "off" },
      chat.turns.length ? null : h("p", { class: "empty" }, models.length ? "Ask something. The chat is kept in this page only, and its tokens count as the key “dashboard”." : "No model is ready. Launch one in the overview; it can be tried here then."),
      chat.turns.map((turn, index) => turnPart(turn, index, isBusy && index === chat.turns.length - 1)),
      chat.error ? h("p", { class: "problem", role: "alert" }, visible(chat.error)) : null),
    h("form", { class: "compose", onsubmit: submit }, h("label", {}, h("span", { class: "unseen" }, "Question"), h("textarea", { id: "question", rows: "3", placeholder: "Enter sends, Shift+Enter begins a line", onkeydown: keydown })),
      h("div", { class: "buttons" }, isBusy ? h("button", { key: "stop", type: "button", class: "danger", onclick: () => chat.stop.abort() }, "Stop") : h("button", { key: "send", type: "submit", class: "main", disabled: !models.length }, "Send"),
        !isBusy && chat.turns.length > 1 ? h("button", { key: "again", type: "button", onclick: again }, "Again") : null)));
}

function turnPart(turn, index, isOpen) {
  if (turn.role === "user") return h("div", { key: index, class: "turn user" }, h("h3", { class: "unseen" }, "You"), h("div", { class: "body" }, visible(turn.text)));
  return h("div", { key: index, class: "turn" }, h("h3", { class: "unseen" }, visible(turn.model)), h("div", { class: "body" }, turn.text ? markdown(turn.text) : isOpen ? h("p", { class: "hint" }, `Waiting for the first token, ${seconds((performance.now() - turn.started) / 1000)}.`) : null), figuresOf(turn, isOpen));
}

function figuresOf(turn, isOpen) {
  if (!turn.first) return null;
  const tokens = (turn.usage && turn.usage.completion_tokens) || turn.pieces, writing = ((turn.ended || performance.now()) - turn.first) / 1000;
  const cached = turn.usage && turn.usage.prompt_tokens_details && turn.usage.prompt_tokens_details.cached_tokens;
  const parts = [`first token after ${seconds((turn.first - turn.started) / 1000)}`, `${number(tokens)} tokens`, writing > 0.05 ? `${number(tokens / writing)} tok/s` : "",
    turn.usage ? `prompt ${short(turn.usage.prompt_tokens)}${cached ? `, ${number((100 * cached) / turn.usage.prompt_tokens)} % cached` : ""}` : "", turn.isStopped ? "stopped" : ""];
  return h("p", { class: "meta" }, parts.filter(Boolean).join(" · "), isOpen ? null : h("button", { type: "button", class: "quiet", onclick: () => navigator.clipboard.writeText(turn.text) }, "Copy"));
}
