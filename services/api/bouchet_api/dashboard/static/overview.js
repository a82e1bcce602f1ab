// The first screen: does it work, what does it do, what does it cost.

import { h } from "./dom.js";
import { clock, deadlineOf, duration, jobOf, now, number, percent, seconds, short, stateOf, until, visible } from "./format.js";
import { charts, sparkline } from "./charts.js";
import { accountPanel } from "./account.js";

const KINDS = { good: "✓", busy: "…", person: "▲", calm: "–" };

export function overview(state, act) {
  const status = state.status;
  if (!status) return h("div", { class: "page" }, banners(state, act), state.problem ? null : h("p", { class: "empty" }, "Reading the state of this installation."));
  return h("div", { class: "page" },
    banners(state, act),
    h("section", { class: "band", "aria-label": "The way of a request, and the account" }, pathStrip(state), accountPanel(state)),
    deploymentList(state, act),
    h("div", { class: "columns" }, requestPanel(state), happenedPanel(state)),
    chartPanel(state, act),
    errorPanel(state),
  );
}

// what needs a person, or keeps the page from being true

function banners(state, act) {
  const found = [];
  if (state.link === "lost") {
    found.push(banner("lost", "person", "The API does not answer", `This page shows ${state.readAt ? `what it knew at ${clock(state.readAt, true)}` : "nothing yet"} and goes on by itself. \`make status\` shows the services; \`make up\` starts them.`));
  }
  if (state.problem) found.push(banner("problem", "person", "The records cannot be read", visible(state.problem.detail)));
  const status = state.status;
  if (!status) return found;
  const tunnel = status.tunnel;
  if (status.tunnel_error) found.push(banner("gateway", "person", "The gateway does not answer", visible(status.tunnel_error)));
  else if (tunnel.prompt) found.push(promptForm(tunnel, act));
  else if (tunnel.host_key) found.push(hostKeyForm(tunnel, act));
  else if (tunnel.state === "refused") {
    found.push(banner("refused", "person", `${visible(tunnel.host)} refuses the login`, visible(tunnel.detail || tunnel.last_error), h("button", { type: "button", onclick: () => act.connect() }, "Try again")));
  }
  if (status.outage) found.push(banner("outage", "busy", `Slurm cannot be asked since ${clock(status.outage.since)}`, `${visible(status.outage.detail)} The deployments below are shown as they were before; running jobs go on.`));
  if (!status.worker) found.push(banner("worker", "person", "The worker is silent", "Launches and cancels wait for it. `make logs` shows why; `make up` starts it."));
  if (status.orphans) found.push(banner("orphans", "busy", `${status.orphans} Slurm ${status.orphans === 1 ? "job has" : "jobs have"} no deployment`, "`./bouchet orphans` lists them, and adopts or cancels them."));
  return found;
}

function banner(key, kind, title, text, ...more) {
  return h("section", { key, class: `banner ${kind}`, role: kind === "person" ? "alert" : null },
    h("h2", {}, h("span", { class: "sign", "aria-hidden": "true" }, KINDS[kind]), title), h("p", {}, ...codes(text)), more);
}

/** Text with `commands` in it, as pieces. */
export function codes(text) {
  return String(text).split("`").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

function promptForm(tunnel, act) {
  const prompt = tunnel.prompt;
  const submit = (event) => {
    event.preventDefault();
    const form = event.target;
    act.answer(prompt.id, prompt.questions.map((_, index) => form.elements[`answer${index}`].value), form);
  };
  return h("section", { key: `prompt ${prompt.id}`, class: "banner person", role: "alert" },
    h("h2", {}, h("span", { class: "sign", "aria-hidden": "true" }, "▲"), `${visible(prompt.host || tunnel.host)} asks who you are`),
    prompt.title ? h("p", { class: "quote" }, visible(prompt.title)) : null,
    h("form", { onsubmit: submit, autocomplete: "off" },
      prompt.questions.map((question, index) => h("label", { key: index }, h("span", { class: "quote" }, visible(question)),
        h("input", { name: `answer${index}`, type: prompt.echo[index] ? "text" : "password", maxlength: "1024", autocomplete: "one-time-code", spellcheck: "false" }))),
      h("button", { type: "submit", class: "main" }, "Send"),
      h("p", { class: "hint" }, "It is sent to the login node and stored nowhere.")));
}

function hostKeyForm(tunnel, act) {
  const key = tunnel.host_key;
  const text = key.changed
    ? `${visible(key.place)} shows another host key than before. An attack would show the same. Ask the centre; only then \`./bouchet tunnel --forget ${visible(key.place)}\` removes the old one.`
    : `${visible(key.place)} shows a host key that this installation does not know. Compare it with the one that the centre publishes:`;
  return banner(`key ${key.fingerprint}`, "person", key.changed ? "The host key has changed" : "A new host key", text,
    h("p", { class: "quote" }, `${visible(key.algorithm)} ${visible(key.fingerprint)}`),
    key.changed ? null : h("button", { type: "button", class: "main", onclick: () => act.trust(key.fingerprint) }, "It is the same: trust it"));
}

// laptop, proxy, tunnel, job, engine

function pathStrip(state) {
  return h("ol", { class: "path", "aria-label": "The way of a request" }, steps(state).map((step) =>
    h("li", { key: step.name, class: step.kind, title: step.more },
      h("span", { class: "name" }, step.name),
      h("span", { class: "sign", "aria-hidden": "true" }, KINDS[step.kind]),
      h("span", { class: "state" }, step.text))));
}

function steps(state) {
  const status = state.status, ready = status.deployments.filter((one) => one.phase === "ready");
  const job = ready.length ? jobOf(ready[0]) : null;
  return [
    state.link === "lost" ? step("laptop", "person", "no API", "This page cannot reach the API on this machine.")
      : status.worker ? step("laptop", "good", "ok", "The API and the worker on this machine answer.")
        : step("laptop", "person", "worker silent", "The worker has not shown itself for 15 s."),
    status.proxy ? step("proxy", "good", "ok", "The proxy has reported in the last 15 s.")
      : step("proxy", "person", "silent", "The proxy has not reported for 15 s; `make logs` shows why."),
    tunnelStep(status),
    jobStep(status, ready, job),
    engineStep(state, ready, job),
  ];
}

function step(name, kind, text, more) { return { name, kind, text, more }; }

function tunnelStep(status) {
  const tunnel = status.tunnel;
  if (!tunnel) return step("tunnel", "person", "no gateway", visible(status.tunnel_error));
  const trip = tunnel.round_trip_ms ? `${number(tunnel.round_trip_ms)} ms` : "ok";
  if (tunnel.state === "up") return step("tunnel", "good", trip, `Connected to ${visible(tunnel.host)} since ${clock(tunnel.since)}; the time is that of a round trip to the login node.`);
  const found = { needs_human: ["person", "asks you"], refused: ["person", "refused"], connecting: ["busy", "connecting"], down: ["busy", "down"] }[tunnel.state];
  return step("tunnel", found[0], found[1], visible(tunnel.detail || tunnel.last_error));
}

function jobStep(status, ready, job) {
  if (status.outage) return step("job", "busy", "not asked", visible(status.outage.detail));
  if (job) return step("job", "good", ready.length > 1 ? `${ready.length} ready` : `${job.slurm_id ?? ""}`, job.slurm_id ? `Slurm job ${job.slurm_id} on node ${visible(job.node || "?")}.` : `A server of others on ${visible(job.node || "?")}: no job of ours.`);
  const waiting = status.deployments.filter((one) => ["queued", "starting", "submitting", "requested"].includes(one.phase));
  return waiting.length ? step("job", "busy", stateOf(waiting[0]).word, visible(waiting[0].reason)) : step("job", "calm", "none", "No job runs or waits.");
}

function engineStep(state, ready, job) {
  if (!job) return step("vLLM", "calm", "none", "No model is ready.");
  const last = latest(state, job.name);
  if (!last) return step("vLLM", "good", "ok", "vLLM answers its health check; its figures have not been read yet.");
  return step("vLLM", "good", last.made ? `${short(last.made)} tok/s` : "ok", `Last figures at ${clock(last.at * 1000, true)}, from vLLM's /metrics.`);
}

export function latest(state, job) {
  const points = state.points.get(job);
  const last = points && points[points.length - 1];
  return last && now() / 1000 - last.at < 120 ? last : null;
}

// deployments

const ORDER = ["ready", "starting", "draining", "queued", "submitting", "requested", "parked"];

function deploymentList(state, act) {
  const ended = state.status.ended;
  const live = state.status.deployments.slice().sort((one, other) => ORDER.indexOf(one.phase) - ORDER.indexOf(other.phase));
  return h("section", { class: "deployments", "aria-labelledby": "deployments" },
    h("div", { class: "title" }, h("h2", { id: "deployments" }, "Deployments"),
      h("button", { type: "button", class: "main", onclick: () => act.launch() }, "Launch a model")),
    live.length ? null : h("p", { class: "empty" }, ...codes("Nothing runs, so nothing costs. Launch a model here, or with `./bouchet launch`.")),
    live.map((record) => card(state, record, act)),
    ended.length ? h("details", { key: "ended", class: "ended" }, h("summary", {}, `Ended in the last 12 hours: ${ended.length}`),
      h("ul", {}, ended.map((record) => endedLine(record, act)))) : null);
}

function endedLine(record, act) {
  const found = stateOf(record);
  return h("li", { key: record.id, class: found.kind }, h("b", {}, visible(record.names[0])), " ", h("span", { class: "state" }, `${found.symbol} ${found.word}`), ` ${clock(record.updated_at)} `,
    h("span", { class: "quote" }, visible(record.reason)), " ",
    // a server of others has no log here, and is not launched
    record.attached ? null : h("button", { type: "button", class: "quiet", onclick: () => act.show(`logs/${record.id}`) }, "Log"),
    record.attached ? null : h("button", { type: "button", class: "quiet", onclick: () => act.launch(record) }, "Launch again"));
}

function card(state, record, act) {
  const found = stateOf(record), job = jobOf(record), name = visible(record.names[0]);
  const isStopping = record.stop_requested_at !== null;
  return h("article", { key: record.id, class: `card ${found.kind}`, "aria-label": `${name}, ${found.word}` },
    h("header", {},
      h("h3", {}, name),
      h("span", { class: "state" }, h("span", { "aria-hidden": "true" }, `${found.symbol} `), isStopping ? "being cancelled" : found.word),
      h("span", { class: "actions" },
        record.phase === "ready" || record.phase === "parked" ? h("button", { type: "button", onclick: () => act.show(`chat/${record.names[0]}`) }, "Chat") : null,
        record.attached ? null : h("button", { type: "button", onclick: () => act.show(`logs/${record.id}`), "aria-label": `Log of ${name}` }, "Log"),
        record.attached ? null : h("button", { type: "button", onclick: () => act.keep(record), "aria-label": `Keep ${name}` }, "Keep"),
        h("button", { type: "button", disabled: isStopping, onclick: () => act.cancel(record), "aria-label": `${record.attached ? "Detach" : "Cancel"} ${name}` }, record.attached ? "Detach" : "Cancel"))),
    h("p", { class: "where" }, h("span", {}, whereText(record, job)), timeLeft(job)),
    record.reason && record.phase !== "ready" ? h("p", { class: "reason" }, visible(record.reason)) : null,
    startEstimate(job),
    successor(record),
    record.phase === "starting" && job && !record.attached ? startBar(job) : null,
    record.phase === "ready" && job ? figures(state, record, job) : null,
    job && job.note ? h("p", { class: "reason" }, visible(job.note)) : null,
    decisionLog(record));
}

function whereText(record, job) {
  const place = job && job.placement;
  const parts = [record.model !== record.names[0] ? visible(record.model) : ""];
  if (place) parts.push(`${place.gpus} × ${gpuName(place.gpu_type)}`, visible(place.partition));
  if (job && job.node) parts.push(record.attached ? visible(`${job.node}:${job.port}`) : visible(job.node));
  if (record.launched_by) parts.push(`launched by installation ${visible(record.launched_by)}, adopted`);
  if (record.attached) parts.push("attached, not ours, never cancelled");
  if (job && job.slurm_id) parts.push(`job ${job.slurm_id}`);
  return parts.filter(Boolean).join(" · ");
}

export function gpuName(type) { return type ? visible(type).toUpperCase() : "GPU"; }

function timeLeft(job) {
  const deadline = deadlineOf(job);
  if (!deadline) return null;
  const left = until(deadline), whole = job.placement.walltime_s;
  const share = Math.min(1, Math.max(0, 1 - left / whole));
  const text = `ends ${clock(deadline)}, in ${duration(left)}`;
  return h("span", { class: "left", title: `Walltime ${duration(whole)}, since ${clock(job.since.starting)}. Slurm ends the job then at the latest.` },
    h("span", { class: "gauge", "aria-hidden": "true" }, h("i", { style: { width: `${Math.round(share * 100)}%` } })), text);
}

function startEstimate(job) {
  if (!job || job.phase !== "queued" || !job.start_estimate) return null;
  const left = until(job.start_estimate);
  return h("p", { class: "reason" }, left > 0 ? `Starts about ${clock(job.start_estimate)}, in ${duration(left)} by Slurm's estimate.` : "Slurm expected it to have started by now.");
}

function successor(record) {
  const serving = jobOf(record);
  const others = record.jobs.filter((job) => job.phase !== "ended" && serving && job.name !== serving.name);
  return others.map((job) => h("p", { key: job.name, class: "reason" },
    job.replaces ? "Successor" : "Also", ` ${stateOf({ phase: job.phase, service: null }).word}`, job.slurm_id ? ` (job ${job.slurm_id})` : "",
    job.start_estimate && job.phase === "queued" ? `, starts about ${clock(job.start_estimate)}` : "", job.leaving_since ? ", takes no new requests" : "", job.reason ? `: ${visible(job.reason)}` : "."));
}

const STARTUP = [["queue", "queue"], ["image", "image"], ["boot", "boot"], ["load", "weights"], ["compile", "compile"], ["smoke", "smoke test"]];

function startBar(job) {
  const done = STARTUP.filter(([key]) => job.times[key] !== undefined);
  return h("div", { class: "startup" },
    h("ol", { "aria-label": "Steps of the start" }, done.map(([key, word]) => h("li", { key, style: { "flex-grow": String(Math.max(1, job.times[key])) } }, h("span", {}, `${word} ${duration(job.times[key])}`))),
      h("li", { key: "now", class: "now" }, h("span", {}, visible(job.progress || "starting")))),
    h("p", { class: "hint" }, `Running since ${clock(job.since.starting)}, ${duration(-until(job.since.starting))} ago.`));
}

function figures(state, record, job) {
  const last = latest(state, job.name), points = state.points.get(job.name) || [];
  if (!last) return h("p", { class: "hint" }, "Its figures have not been read yet; that takes up to 30 s.");
  const item = (word, value, source) => h("div", { key: word, title: `${source}. Read at ${clock(last.at * 1000, true)}.` }, h("dt", {}, word), h("dd", {}, value));
  return h("div", { class: "figures" }, h("dl", {},
    item("running", number(last.running), "Requests being computed (vllm:num_requests_running)"),
    item("waiting", number(last.waiting), "Requests in vLLM's queue (vllm:num_requests_waiting)"),
    item("KV cache", percent(last.kv), "Used share of the KV cache (vllm:kv_cache_usage_perc)"),
    item("cached", percent(last.hits), "Share of prompt tokens found in the prefix cache since the reading before"),
    item("speed", `${short(last.made)} tok/s`, "Generated tokens a second, all requests together"),
    item("first token", seconds(last.first50), "Median time to the first token since the reading before"),
  ), sparkline(points, "made", `Tokens a second of ${visible(record.names[0])} in the last hour`));
}

function decisionLog(record) {
  const decisions = record.service.decisions;
  if (!decisions.length) return null;
  return h("details", { key: "decisions" }, h("summary", {}, `Decisions (${decisions.length})`),
    h("ol", { class: "log" }, decisions.slice().reverse().map((one, index) => h("li", { key: `${one.at} ${index}` }, h("time", {}, clock(one.at)), " ", visible(one.reason || one.action)))));
}

// requests, events, errors

function requestPanel(state) {
  const report = state.requests, rows = report ? report.requests || [] : [];
  return h("section", { "aria-labelledby": "requests" }, h("h2", { id: "requests" }, "Live requests", rows.length ? h("small", {}, ` ${rows.length + (report.more || 0)}`) : null),
    rows.length ? h("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "requests" }, h("table", {}, h("caption", { class: "unseen" }, "Requests that have not ended, the oldest first"), h("thead", {}, h("tr", {},
      ["age", "client", "key", "conversation", "model", "phase", "tokens", "tok/s", "cached"].map((word, index) => h("th", { key: word, scope: "col", class: [0, 6, 7, 8].includes(index) ? "n" : null }, word)))),
    h("tbody", {}, rows.map((row) => h("tr", { key: row.id, class: row.phase },
      h("td", { class: "n", title: clock(row.began * 1000, true) }, duration(report.at - row.began)),
      h("td", {}, [visible(row.agent || "unknown"), row.kind && row.kind !== "main" ? ` ${visible(row.kind)}` : ""].join("")),
      h("td", {}, visible(row.key)), h("td", {}, h("code", {}, visible((row.conversation || "–").slice(0, 6)))), h("td", {}, visible(row.model)),
      h("td", { title: PHASE_MORE[row.phase] }, phaseText(row)), h("td", { class: "n" }, number(row.tokens || 0)), h("td", { class: "n" }, row.rate ? number(row.rate) : "–"), h("td", { class: "n" }, percent(row.cached)))))))
      : h("p", { class: "empty" }, report ? "No request is open." : state.status.proxy ? "The proxy lists open requests within a few seconds." : "The proxy does not answer."));
}

const PHASES = { held: "held", sent: "reading", decode: "writing" };
const PHASE_MORE = { held: "Its model is not ready; the client waits", sent: "In vLLM's queue, or its prompt is being read; about so many tokens", decode: "The answer is being written" };
function phaseText(row) { return row.phase === "sent" ? `reading ${short(Math.round((row.prompt || 0) / 4))}` : PHASES[row.phase] || visible(row.phase); }

function eventText(event) {
  const word = stateOf({ ...event, service: null }).word;
  return !event.reason ? word : event.reason.startsWith(word) ? event.reason : `${word}: ${event.reason}`;
}

function happenedPanel(state) {
  const names = new Map([...state.status.deployments, ...state.status.ended].map((one) => [one.id, one.names[0]]));
  const found = state.status.events.map((one) => ({ key: one.id, at: one.at, name: names.get(one.deployment) || one.deployment, text: eventText(one) }));
  for (const record of state.status.deployments) {
    record.service.decisions.forEach((one, index) => found.push({ key: `${record.id} ${one.at} ${index}`, at: one.at, name: record.names[0], text: one.reason || one.action }));
  }
  found.sort((one, other) => (one.at < other.at ? 1 : -1));
  return h("section", { "aria-labelledby": "happened" }, h("h2", { id: "happened" }, "What happened"),
    found.length ? h("ol", { class: "log scroll", tabindex: "0", "aria-labelledby": "happened" }, found.slice(0, 60).map((one) => h("li", { key: one.key }, h("time", {}, clock(one.at)), " ", h("b", {}, visible(one.name)), " ", visible(one.text))))
      : h("p", { class: "empty" }, "Nothing yet."));
}

function chartPanel(state, act) {
  const jobs = state.status.deployments.flatMap((record) => record.jobs.filter((job) => state.points.has(job.name)).map((job) => ({ job: job.name, name: `${record.names[0]}${record.jobs.length > 1 ? ` (${job.slurm_id || job.name})` : ""}` })));
  if (!jobs.length) return null;
  const chosen = jobs.find((one) => one.job === state.chosenJob) || jobs[0];
  return h("section", { "aria-labelledby": "charts" }, h("div", { class: "title" }, h("h2", { id: "charts" }, "The last hour"),
    h("label", { class: "inline" }, h("span", { class: "unseen" }, "Deployment"), h("select", { value: chosen.job, onchange: (event) => act.choose(event.target.value) }, jobs.map((one) => h("option", { key: one.job, value: one.job }, visible(one.name)))))),
  charts(state.points.get(chosen.job) || []));
}

function errorPanel(state) {
  const errors = (state.requests && state.requests.errors) || [];
  return h("section", { "aria-labelledby": "errors" }, h("h2", { id: "errors" }, "Errors as clients saw them"),
    errors.length ? h("ol", { class: "log scroll", tabindex: "0", "aria-labelledby": "errors" }, errors.slice().reverse().map((one, index) => h("li", { key: `${one.at} ${index}` }, h("time", {}, clock(one.at * 1000, true)), " ",
      h("b", {}, `${one.status || ""} ${visible(one.key)}`), " ", visible(one.model), ": ", visible(one.message || one.kind))))
      : h("p", { class: "empty" }, "No request has failed since the proxy started."));
}
