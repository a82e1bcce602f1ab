// The page: who is signed in, which view is shown, and the stream that keeps it current.

import { ask, follow, setToken, whenSignedOut } from "./client.js";
import { h, render, scheduler } from "./dom.js";
import { now, setClock } from "./format.js";
import { makeActions } from "./actions.js";
import { overview } from "./overview.js";
import { signInView } from "./signin.js";

const POINTS_KEPT = 720;
// the stream has its clock every 10 s: after a longer silence the connection is gone, as after the sleep of a laptop
const HIDDEN_MS = 60_000, ACCOUNT_MS = 60_000, SILENT_MS = 30_000;
// views that are loaded when they are first opened
const VIEWS = { chat: () => import("./chat.js"), models: () => import("./models.js"), keys: () => import("./keys.js"), logs: () => import("./logs.js") };

const state = {
  session: null, ended: "", link: "connecting", readAt: 0, problem: null,
  status: null, requests: null, points: new Map(), chosenJob: "", account: null, view: null, viewName: "",
};
const app = document.getElementById("app");
const redraw = scheduler(draw);
const act = makeActions(state, redraw, notice);
let closeStream = null, hiddenTimer = 0;

export function notice(text) {
  const place = document.getElementById("notice");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => place.classList.remove("shown"), 6000);
}

function draw() {
  if (!state.session) return;
  if (!state.session.signed_in) render(app, signInView(state, signIn));
  else render(app, frame(), h("main", { id: "main", tabindex: "-1", key: `view ${state.viewName}` }, state.view ? state.view.show(state, act) : state.viewName ? h("p", { class: "empty" }, "Opening.") : overview(state, act)), act.dialog());
  document.title = title();
}

function title() {
  const tunnel = state.status && state.status.tunnel;
  const waits = tunnel && (tunnel.prompt || tunnel.host_key);
  return `${waits ? "▲ " : ""}bouchet${state.viewName ? ` · ${state.viewName}` : ""}`;
}

function frame() {
  const link = (name, word) => h("a", { key: name, href: `#${name}`, "aria-current": state.viewName === name ? "page" : null }, word);
  const tunnel = state.status && state.status.tunnel;
  return h("header", { class: "top", key: "top" },
    h("h1", {}, h("a", { href: "#" }, "bouchet")),
    h("nav", { "aria-label": "Views" }, link("", "Overview"), link("chat", "Chat"), link("models", "Models"), link("keys", "Keys"), h("a", { href: "/usage" }, "Usage")),
    h("span", { class: `cluster ${state.link}` }, state.link === "lost" ? "no answer from the API" : tunnel ? tunnel.host : ""),
    h("button", { type: "button", class: "quiet", role: "switch", "aria-checked": act.notifies() ? "true" : "false", "aria-label": "Notify", onclick: act.switchNotifications, title: "Have this browser say when a model is ready, has ended, or needs you, while the page is in the background" }, `Notify: ${act.notifies() ? "on" : "off"}`),
    h("button", { type: "button", class: "quiet", onclick: act.changeTheme, title: "Light, dark, or as the system has it" }, "Theme"),
    h("button", { type: "button", class: "quiet", onclick: signOut }, "Sign out"));
}

// views by the part of the address behind #

// an address that is no text, as a link that was cut, is the overview's
function place() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}

async function route() {
  const [name, ...rest] = place().split("/");
  if (state.view && state.view.close) state.view.close();
  state.viewName = Object.hasOwn(VIEWS, name) ? name : "";
  state.view = null;
  redraw();
  if (!state.viewName || !state.session || !state.session.signed_in) return;
  const module = await VIEWS[name]();
  if (state.viewName !== name) return;
  state.view = module;
  if (module.open) module.open(rest.join("/"), state, redraw, act);
  redraw();
  const main = document.getElementById("main");
  if (main) main.focus({ preventScroll: true });
}

// signing in and out

async function signIn(request) {
  const session = await ask("POST", "/v1/session", request);
  begin(session);
}

async function signOut() {
  try { end((await ask("DELETE", "/v1/session")).note); } catch (error) { notice(error.message); }
}

function end(why) {
  if (closeStream) closeStream();
  closeStream = null;
  Object.assign(state, { session: { signed_in: false }, ended: why, status: null, requests: null, link: "connecting" });
  state.points.clear();
  redraw();
}

function begin(session) {
  state.session = session;
  setToken(session.token || "");
  if (session.signed_in) { openStream(); route(); act.readAccount(); }
  redraw();
}

// the stream

function openStream() {
  if (closeStream) return;
  closeStream = follow("/v1/live", {
    clock: setClock,
    history: (points) => { state.points.clear(); addPoints(points); },
    points: addPoints,
    status: (status) => { act.announce(state.status, status); state.status = status; fresh(); },
    requests: (requests) => { state.requests = requests; fresh(); },
    problem: (problem) => { state.problem = problem; redraw(); },
  }, (link) => {
    state.link = link;
    redraw();
    // a session that has ended seems to be an API that is away
    if (link === "lost") ask("GET", "/v1/session").then((session) => { if (!session.signed_in) end("Your session has ended. Sign in again."); else setToken(session.token); }, () => {});
  }, SILENT_MS);
}

function fresh() { state.readAt = now(); redraw(); }

function addPoints(points) {
  for (const point of points) {
    let known = state.points.get(point.job);
    if (!known) state.points.set(point.job, (known = []));
    if (known.length && known[known.length - 1].at >= point.at) continue;
    known.push(point);
    if (known.length > POINTS_KEPT) known.shift();
  }
  // jobs that have ended leave the page an hour later
  const oldest = now() / 1000 - 3600;
  for (const [job, known] of state.points) if (known[known.length - 1].at < oldest) state.points.delete(job);
  redraw();
}

// a page that no one sees costs nothing, unless it is to say when something happens
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden && !act.notifies()) hiddenTimer = setTimeout(() => { if (closeStream) { closeStream(); closeStream = null; } }, HIDDEN_MS);
  else if (!document.hidden && state.session && state.session.signed_in) openStream();
});

window.addEventListener("hashchange", route);
window.addEventListener("redraw", redraw);
window.addEventListener("restart-stream", () => { if (closeStream) { closeStream(); closeStream = null; openStream(); } });
setInterval(() => { if (state.session && state.session.signed_in && !document.hidden) act.readAccount(); }, ACCOUNT_MS);
// ages and times left go on without news
setInterval(redraw, 5000);

async function start() {
  act.applyTheme();
  whenSignedOut(() => { if (state.session && state.session.signed_in) end("Your session has ended. Sign in again."); });
  const link = /^#link=([A-Za-z0-9_-]+)$/.exec(location.hash);
  if (link) history.replaceState(null, "", "/");
  try {
    const session = link ? await ask("POST", "/v1/session", { link: link[1] }) : await ask("GET", "/v1/session");
    state.ended = "";
    begin(session);
  } catch (error) {
    state.session = { signed_in: false };
    state.ended = error.message;
    if (error.kind === "unreachable" || error.status === 503) setTimeout(start, 2000);
    redraw();
  }
}

start();
