// Dialogs: launch with its preview, keep, cancel.

import { ask } from "./client.js";
import { h } from "./dom.js";
import { duration, number, visible } from "./format.js";
import { codes, gpuName } from "./overview.js";

const PERIODS = [["", "one job, until its walltime"], ["3d", "3 days"], ["1w", "1 week"], ["forever", "until I cancel it"]];

/** Launch a model: what it would submit is shown first. like: a record to launch again. */
export function launchDialog(state, act, like) {
  const form = { models: null, error: "", preview: null, isBusy: "", fields: null };
  const once = crypto.randomUUID();
  if (!like) ask("GET", "/v1/models").then((found) => { form.models = found; act.redraw(); }, (error) => { form.error = error.message; act.redraw(); });
  const change = () => { if (form.preview) { form.preview = null; act.redraw(); } };
  const submit = async (event) => {
    event.preventDefault();
    if (form.isBusy) return;
    const request = like ? { like: like.id } : readRequest(event.target);
    const isLaunch = form.preview !== null;
    Object.assign(form, { isBusy: isLaunch ? "Launching." : "Asking what it would submit.", error: "" });
    act.redraw();
    try {
      if (isLaunch) {
        const made = await ask("POST", "/v1/deployments", request, { "idempotency-key": once });
        act.notice(`${visible(made.names[0])} is requested.`);
        act.close();
      } else form.preview = await ask("POST", "/v1/deployments/preview", request);
    } catch (error) {
      form.error = error.message;
    }
    form.isBusy = "";
    act.redraw();
  };
  return { view: () => h("form", { onsubmit: submit, oninput: change },
    h("h2", { id: "dialog-title" }, like ? `Launch ${visible(like.names[0])} again` : "Launch a model"),
    like ? h("p", {}, "With the same model, image and options as before.") : launchFields(form),
    form.error ? h("p", { class: "problem", role: "alert" }, ...codes(visible(form.error))) : null,
    form.preview ? previewPart(form.preview) : null,
    h("div", { class: "buttons" }, h("span", { role: "status" }, form.isBusy),
      h("button", { type: "button", onclick: act.close }, "Close"),
      h("button", { type: "submit", class: "main", disabled: Boolean(form.isBusy) || (!like && !form.models) }, form.preview ? "Launch" : "Preview"))) };
}

function launchFields(form) {
  const models = form.models ? form.models.models : [];
  return h("div", { class: "fields" },
    h("label", { class: "wide" }, "Model", h("select", { name: "model", value: form.models ? form.models.default : undefined }, models.map((one) => h("option", { key: one.id, value: one.id }, `${visible(one.alias)} (${one.gpus} GPU${one.gpus > 1 ? "s" : ""}): ${visible(one.description)}`)))),
    h("label", {}, "Name", h("input", { name: "name", placeholder: "the catalog's", maxlength: "63", spellcheck: "false" })),
    h("label", {}, "GPUs", h("input", { name: "gpus", type: "number", min: "1", max: "256", placeholder: "the catalog's" })),
    h("label", {}, "Walltime", h("input", { name: "time", placeholder: "the site's, e.g. 08:00:00", spellcheck: "false" })),
    h("label", {}, "Partition", h("input", { name: "partition", placeholder: "earliest start", spellcheck: "false" })),
    h("label", {}, "Keep it", h("select", { name: "keep" }, PERIODS.map(([value, word]) => h("option", { key: value, value }, word)))),
    h("label", {}, "Budget", h("input", { name: "budget", placeholder: "none, e.g. 40h/week", spellcheck: "false" })),
    h("label", { class: "check wide" }, h("input", { type: "checkbox", name: "on_demand" }), "On demand: no job until a request names it"));
}

function readRequest(form) {
  const of = (name) => form.elements[name].value.trim();
  const request = { model: of("model") }, policy = {};
  if (of("name")) request.name = of("name");
  if (of("gpus")) request.gpus = Number(of("gpus"));
  if (of("time")) request.time = of("time");
  if (of("partition")) request.partition = of("partition");
  if (of("keep")) policy.keep = of("keep");
  if (of("budget")) policy.budget = of("budget");
  if (form.elements.on_demand.checked) policy.on_demand = true;
  if (Object.keys(policy).length) request.policy = { ...policy, time_zone: zone() };
  return request;
}

function zone() { return Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC"; }

function previewPart(preview) {
  const place = preview.placement, memory = preview.memory || {};
  const row = (word, value) => (value ? [h("dt", { key: `${word} dt` }, word), h("dd", { key: `${word} dd` }, value)] : null);
  return h("section", { class: "preview", "aria-label": "What would be submitted" }, h("dl", {},
    row("GPUs", `${place.gpus} × ${gpuName(place.gpu_type)}${place.nodes > 1 ? ` on ${place.nodes} nodes` : ""}, partition ${visible(place.partition)}`),
    row("why", visible(place.why)), row("walltime", duration(place.walltime_s)), row("cost", visible(preview.cost)),
    row("window", `${number(preview.window)} tokens`), row("memory", visible(memory.note)), row("image", visible(preview.image))),
  h("details", {}, h("summary", {}, "Command and batch script"), h("pre", { tabindex: "0" }, visible(preview.command.join(" "))), h("pre", { tabindex: "0" }, visible(preview.script))));
}

export function keepDialog(record, act) {
  const form = { error: "", isBusy: false };
  const submit = async (event) => {
    event.preventDefault();
    const fields = event.target.elements, policy = {};
    if (fields.keep.value) policy.keep = fields.keep.value;
    if (fields.until.value.trim()) policy.until = fields.until.value.trim();
    if (fields.budget.value.trim()) policy.budget = fields.budget.value.trim();
    if (fields.on_demand.checked !== record.policy.on_demand) policy.on_demand = fields.on_demand.checked;
    if (!Object.keys(policy).length) {
      form.error = "Nothing is chosen that would change: say how long it is kept, its budget, or whether it is on demand.";
      act.redraw();
      return;
    }
    policy.time_zone = zone();
    form.isBusy = true;
    act.redraw();
    try {
      await ask("PATCH", `/v1/deployments/${encodeURIComponent(record.id)}`, policy);
      act.notice(`The policy of ${visible(record.names[0])} is changed.`);
      act.close();
    } catch (error) { form.error = error.message; }
    form.isBusy = false;
    act.redraw();
  };
  const keep = record.policy.keep;
  return { view: () => h("form", { onsubmit: submit }, h("h2", { id: "dialog-title" }, `Keep ${visible(record.names[0])}`),
    h("p", {}, keep === "off" ? "It has one job, which ends at its walltime." : keep === "forever" ? "It is kept until it is cancelled." : `It is kept until ${new Date(keep).toLocaleString("en-GB")}.`),
    h("div", { class: "fields" },
      h("label", {}, "Keep it", h("select", { name: "keep" }, [["", "as it is"], ["off", "no longer than its job"], ...PERIODS.slice(1)].map(([value, word]) => h("option", { key: value, value }, word)))),
      h("label", {}, "or until", h("input", { name: "until", placeholder: "e.g. 18:00 or fri 18:00", spellcheck: "false" })),
      h("label", {}, "Budget", h("input", { name: "budget", placeholder: record.policy.budget ? "unchanged" : "none", spellcheck: "false" })),
      h("label", { class: "check wide" }, h("input", { type: "checkbox", name: "on_demand", checked: record.policy.on_demand }), "On demand: parked while no request names it")),
    form.error ? h("p", { class: "problem", role: "alert" }, ...codes(visible(form.error))) : null,
    h("div", { class: "buttons" }, h("button", { type: "button", onclick: act.close }, "Close"), h("button", { type: "submit", class: "main", disabled: form.isBusy }, "Change"))) };
}

export function cancelDialog(record, act) {
  const form = { error: "", isBusy: false };
  const jobs = record.jobs.filter((job) => job.phase !== "ended");
  const submit = async (event) => {
    event.preventDefault();
    form.isBusy = true;
    act.redraw();
    try {
      await ask("DELETE", `/v1/deployments/${encodeURIComponent(record.id)}`);
      act.notice(record.attached ? `${visible(record.names[0])} is detached; the server itself goes on.` : `${visible(record.names[0])} is being cancelled.`);
      act.close();
    } catch (error) { form.error = error.message; }
    form.isBusy = false;
    act.redraw();
  };
  return { view: () => h("form", { onsubmit: submit }, h("h2", { id: "dialog-title" }, `${record.attached ? "Detach" : "Cancel"} ${visible(record.names[0])}?`),
    h("p", {}, record.attached ? "It is not served any more. The server is not ours: it goes on, and nothing there is ended." : jobs.length ? `It ends ${jobs.length === 1 ? "its Slurm job" : `its ${jobs.length} Slurm jobs`} and releases the GPUs. Open answers are cut.` : "It has no job; it is no longer kept."),
    form.error ? h("p", { class: "problem", role: "alert" }, ...codes(visible(form.error))) : null,
    h("div", { class: "buttons" }, h("button", { type: "button", onclick: act.close }, "Close"), h("button", { type: "submit", class: "danger", disabled: form.isBusy }, record.attached ? "Detach it" : "Cancel it"))) };
}
