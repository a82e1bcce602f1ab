// The catalog and what of it is on the cluster; downloads; container images.

import { ask } from "./client.js";
import { h } from "./dom.js";
import { bytes, duration, now, number, visible } from "./format.js";

const READ_MS = 5000;
const OVER = ["done", "failed", "cancelled"];
// how long the page says that something failed
const FAILED_MS = 12 * 3600_000;
let view = null;

export function open(_, state, redraw) {
  view = { models: null, downloads: [], images: null, jobs: [], error: "", imageError: "", redraw };
  const mine = view;
  load(mine);
  loadImages(mine);
  mine.timer = setInterval(() => { if (!document.hidden) load(mine); }, READ_MS);
}

export function close() { if (view) clearInterval(view.timer); view = null; }

async function load(mine) {
  try {
    const [models, downloads, jobs] = await Promise.all([ask("GET", "/v1/models"), ask("GET", "/v1/downloads?limit=20"), ask("GET", "/v1/images/jobs?limit=10")]);
    const finished = mine.jobs.some((one) => !OVER.includes(one.state) && jobs.jobs.some((now) => now.id === one.id && OVER.includes(now.state)));
    Object.assign(mine, { models, downloads: downloads.downloads, jobs: jobs.jobs, error: "" });
    if (finished) loadImages(mine);
  } catch (error) { mine.error = error.message; }
  mine.redraw();
}

async function loadImages(mine) {
  try { mine.images = await ask("GET", "/v1/images"); mine.imageError = ""; } catch (error) { mine.imageError = error.message; }
  mine.redraw();
}

async function change(method, path, body) {
  const mine = view;
  try { await ask(method, path, body); await load(mine); } catch (error) { mine.error = error.message; mine.redraw(); }
}

export function show(state, act) {
  if (!view) return null;
  const running = worthShowing(view.downloads, "model"), jobs = worthShowing(view.jobs, "pin");
  return h("div", { class: "page" }, view.error ? h("p", { class: "problem", role: "alert" }, visible(view.error)) : null,
    running.length || jobs.length ? h("section", { "aria-labelledby": "work" }, h("h2", { id: "work" }, "Under way"), h("ul", { class: "log scroll" },
      running.map((one) => h("li", { key: one.id }, h("b", {}, visible(one.model)), ` ${visible(one.state)}, ${bytes(one.bytes)} of ${bytes(one.total_bytes)}`, one.eta_s ? `, ${duration(one.eta_s)} left ` : " ", visible(one.reason), " ", stopButton(one, "/v1/downloads"))),
      jobs.map((one) => h("li", { key: one.id }, h("b", {}, visible(one.pin)), ` ${visible(one.action)}, ${visible(one.state === "failed" ? one.state : one.stage || one.state)} `, visible(one.reason), " ", stopButton(one, "/v1/images/jobs"))))) : null,
    modelTable(), imageTable());
}

/** What is under way, and what failed last of a subject: the newest are first. */
function worthShowing(records, subject) {
  const isNewest = (one) => records.find((other) => other[subject] === one[subject]) === one;
  return records.filter((one) => !OVER.includes(one.state) || (one.state === "failed" && isNewest(one) && now() - Date.parse(one.updated_at) < FAILED_MS));
}

function stopButton(one, path) {
  return OVER.includes(one.state) ? null : h("button", { type: "button", class: "quiet", onclick: () => change("DELETE", `${path}/${encodeURIComponent(one.id)}`) }, "Stop");
}

function modelTable() {
  const models = view.models;
  return h("section", { "aria-labelledby": "models" }, h("h2", { id: "models" }, "Models", models && models.free_bytes !== null ? h("small", {}, `  ${bytes(models.free_bytes)} free on the cluster`) : null),
    models ? h("div", { class: "scroll tall", tabindex: "0", role: "group", "aria-labelledby": "models" }, h("table", {}, h("thead", {}, h("tr", {}, ["name", "model", "GPUs", "window", "on the cluster", ""].map((word, index) => h("th", { key: index, scope: "col", class: index === 2 || index === 3 ? "n" : null }, word || h("span", { class: "unseen" }, "actions"))))),
      h("tbody", {}, models.models.map((one) => h("tr", { key: one.id }, h("td", {}, visible(one.alias)), h("td", { title: visible(one.description) }, visible(one.id)), h("td", { class: "n" }, number(one.gpus)), h("td", { class: "n" }, number(one.window)),
        h("td", {}, diskText(one.disk)), h("td", { class: "n" }, one.disk && one.disk.state === "ready" ? null : h("button", { type: "button", "aria-label": `Download ${visible(one.alias)}`, onclick: () => change("POST", "/v1/models/download", { model: one.id }) }, "Download"))))))) : h("p", { class: "empty" }, "Reading."));
}

function diskText(disk) {
  if (!disk) return "not known";
  const size = disk.total_bytes || disk.bytes;
  return { ready: `ready, ${bytes(size)}`, partial: `${number(disk.percent || 0)} % of ${bytes(size)}`, missing: "not there" }[disk.state] || visible(disk.state);
}

function imageTable() {
  const images = view.images ? view.images.images : [];
  return h("section", { "aria-labelledby": "images" }, h("h2", { id: "images" }, "Container images"),
    view.imageError || (view.images && view.images.problem) ? h("p", { class: "problem" }, visible(view.imageError || view.images.problem)) : null,
    images.length ? h("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": "images" }, h("table", {}, h("thead", {}, h("tr", {}, ["pin", "vLLM", "on the cluster", ""].map((word, index) => h("th", { key: index, scope: "col" }, word || h("span", { class: "unseen" }, "actions"))))),
      h("tbody", {}, images.map((one) => h("tr", { key: one.pin }, h("td", {}, visible(one.pin)), h("td", {}, visible(one.vllm || "")), h("td", {}, { ready: `ready, ${bytes(one.bytes)}`, outdated: `of an older recipe, ${bytes(one.bytes)}`, missing: "not there", unknown: "not known" }[one.state]),
        h("td", { class: "n" }, h("button", { type: "button", "aria-label": `Build ${visible(one.pin)}`, onclick: () => change("POST", "/v1/images/jobs", { pin: one.pin }) }, "Build"))))))) : view.images ? h("p", { class: "empty" }, "The site file names no image.") : view.imageError ? null : h("p", { class: "empty" }, "Asking the worker, which asks the cluster."));
}
