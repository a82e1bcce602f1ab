// The log of a deployment's job, as it is written.

import { follow, send } from "./client.js";
import { h } from "./dom.js";
import { stateOf, visible } from "./format.js";

const MOST_LINES = 2000;
let view = null;

export function open(id, state, redraw) {
  view = { id, lines: [], problem: "", link: "", isFollowing: true, count: 0 };
  const mine = view;
  const add = (text, kind) => {
    mine.lines.push({ key: mine.count++, text, kind });
    if (mine.lines.length > MOST_LINES) mine.lines.splice(0, mine.lines.length - MOST_LINES);
    mine.problem = "";
    redraw();
    if (mine.isFollowing) requestAnimationFrame(() => requestAnimationFrame(scrollDown));
  };
  // a stream that is opened again would begin with lines that are here already: it goes on behind the last one
  let last = "";
  mine.close = follow(() => `/v1/deployments/${encodeURIComponent(id)}/logs${last ? `?after=${last}` : ""}`, {
    message: (event, at) => { last = at || last; add(event.line, ""); },
    problem: (problem) => { mine.problem = problem.detail; redraw(); },
  }, (link) => { mine.link = link; if (link === "lost") explain(mine, state, redraw); redraw(); });
}

// a stream that breaks does not say why: an ordinary request does
async function explain(mine, state, redraw) {
  const isOver = state.status && !state.status.deployments.some((one) => one.id === mine.id);
  if (isOver && mine.lines.length) { mine.close(); mine.problem = "The log has ended."; redraw(); return; }
  const stop = new AbortController();
  try {
    await send("GET", `/v1/deployments/${encodeURIComponent(mine.id)}/logs?follow=${isOver ? "false" : "true"}`, undefined, {}, stop.signal);
    stop.abort();
  } catch (error) {
    if (error.name === "AbortError") return;
    mine.problem = error.message;
    if (isOver) mine.close();
    redraw();
  }
}

export function close() { if (view) view.close(); view = null; }

function scrollDown() {
  const list = document.getElementById("lines");
  if (list) list.scrollTop = list.scrollHeight;
}

export function show(state) {
  if (!view) return null;
  const record = state.status && [...state.status.deployments, ...state.status.ended].find((one) => one.id === view.id);
  const onscroll = (event) => { view.isFollowing = event.target.scrollTop + event.target.clientHeight >= event.target.scrollHeight - 24; };
  return h("div", { class: "logview" },
    h("div", { class: "title" }, h("h2", { id: "log" }, "Log of ", h("b", {}, visible(record ? record.names[0] : view.id)), record ? `, ${stateOf(record).word}` : ""),
      h("span", { class: "hint", role: "status" }, view.problem ? visible(view.problem) : view.isFollowing ? "The newest line is shown." : "Scroll to the end to follow it.")),
    view.lines.length ? h("ol", { id: "lines", class: "lines", tabindex: "0", "aria-labelledby": "log", onscroll }, view.lines.map((line) => h("li", { key: line.key, class: line.kind }, visible(line.text) || " ")))
      : h("p", { class: "empty" }, "No line yet. A job writes its log once it runs."));
}
