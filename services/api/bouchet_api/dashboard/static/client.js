// The API: requests with the session's token, and streams that come back after a break.

import { visible } from "./format.js";

export class ApiError extends Error {
  constructor(problem) {
    // it may quote Slurm, ssh or a model's server
    super(visible(problem.detail || problem.title || "The request failed."));
    this.kind = problem.kind || "error";
    this.status = problem.status || 0;
    this.fields = problem.errors || [];
  }
}

let token = "";
let onSignedOut = () => {};

export function setToken(value) { token = value; }
export function whenSignedOut(action) { onSignedOut = action; }

/** Send a request and return the parsed answer. Throws ApiError; its message says what to do. */
export async function ask(method, path, body, headers = {}) {
  const answer = await send(method, path, body, headers);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Send a request and return the response once its head is there. */
export async function send(method, path, body, headers = {}, signal = undefined) {
  const request = { method, headers: { ...headers }, credentials: "same-origin", cache: "no-store", signal };
  if (body !== undefined) {
    request.headers["content-type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  if (method !== "GET") request.headers["x-bouchet-token"] = token;
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ kind: "unreachable", detail: "The API does not answer. `make up` starts it; this page goes on by itself then." });
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: `The API answered ${answer.status}.` }));
  if (answer.status === 401 && problem.kind === "unauthorized") onSignedOut();
  throw new ApiError({ ...problem, status: answer.status });
}

const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

/** Open a stream of events that is opened again after a break. Returns a function that closes it.
 * path: also a function, asked at each opening; on: event name -> function of the parsed data; state: called with "open" or "lost";
 * silentMs: a stream that says nothing for so long is lost, 0: never. */
export function follow(path, on, state = () => {}, silentMs = 0) {
  let source = null, tries = 0, timer = 0, watch = 0, latestAt = 0, closed = false;
  const open = () => {
    timer = 0;
    latestAt = Date.now();
    source = new EventSource(typeof path === "function" ? path() : path);
    source.onopen = () => { tries = 0; latestAt = Date.now(); state("open"); };
    for (const [name, action] of Object.entries(on)) {
      source.addEventListener(name, (event) => { latestAt = Date.now(); action(JSON.parse(event.data), event.lastEventId); });
    }
    source.onerror = lost;
  };
  const lost = () => {
    source.close();
    clearTimeout(timer);
    if (closed) return;
    state("lost");
    timer = setTimeout(open, PAUSES_MS[Math.min(tries++, PAUSES_MS.length - 1)]);
  };
  open();
  // a connection that is gone without a word breaks nothing here
  if (silentMs) watch = setInterval(() => { if (!timer && Date.now() - latestAt > silentMs) lost(); }, silentMs / 10);
  return () => { closed = true; clearTimeout(timer); clearInterval(watch); source.close(); };
}
