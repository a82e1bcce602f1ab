// What it costs: hours of GPUs and charge, today and this month, from the ledger.

import { ask } from "./client.js";
import { h } from "./dom.js";
import { now, number, percent } from "./format.js";

const PARTS = [["serving", "serving"], ["idle", "idle"], ["starting", "starting"], ["draining", "draining"]];

/** Read today's and this month's sums; null if the ledger cannot be read. */
export async function readAccount() {
  const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");
  const date = new Date(now()), pad = (value) => String(value).padStart(2, "0");
  const month = `${date.getFullYear()}-${pad(date.getMonth() + 1)}`, day = `${month}-${pad(date.getDate())}`;
  try {
    const [today, whole, budget] = await Promise.all([ask("GET", `/v1/ledger/gpu?by=day&zone=${zone}&from=${day}&to=${day}`), ask("GET", `/v1/ledger/gpu?by=day&zone=${zone}&month=${month}`), ask("GET", `/v1/ledger/budget?zone=${zone}`)]);
    return { today: today.total, month: whole.total, budget, problem: "" };
  } catch (error) {
    return { problem: error.message };
  }
}

export function accountPanel(state) {
  const account = state.account;
  if (!account) return null;
  if (account.problem) return h("div", { class: "account" }, h("p", { class: "hint" }, `The ledger cannot be read: ${account.problem}`));
  const month = account.month, all = month.gpu_hours || 0;
  const shares = PARTS.map(([key, word]) => [key, word, all ? month[`${key}_hours`] / all : 0]).filter(([, , share]) => share >= 0.005);
  return h("div", { class: "account" },
    h("dl", {}, sums("today", account.today), sums("this month", month), left(account.budget)),
    all ? h("div", { class: "share", role: "img", "aria-label": shares.map(([, word, share]) => `${word} ${percent(share)}`).join(", "), title: "Of this month's GPU hours, from the ledger" }, shares.map(([key, , share]) => h("i", { key, class: key, style: { width: `${(share * 100).toFixed(1)}%` } }))) : null,
    all ? h("p", { class: "hint" }, shares.map(([, word, share]) => `${word} ${percent(share)}`).join(" · ")) : h("p", { class: "hint" }, "No GPU has been used this month."));
}

function left(budget) {
  if (!budget || !budget.budget) return null;
  const unit = budget.unit === "GPU hours" ? "GPU h" : budget.unit, digits = budget.unit === "GPU hours" ? 1 : 0;
  const word = { day: "left today", week: "left this week", month: "left this month" }[budget.period] || "left";
  const text = budget.left > 0 ? `${number(budget.left, digits)} ${unit} (${percent(budget.left / budget.limit)})` : "nothing: no job is submitted";
  return h("div", { key: "left", class: budget.left > 0 ? "" : "problem", title: `Of BOUCHET_BUDGET, ${budget.budget}: ${number(budget.used, digits)} ${unit} are used; it begins again ${new Date(budget.ends_at).toLocaleString("en-GB")}` }, h("dt", {}, word), h("dd", {}, text));
}

function sums(word, total) {
  const charge = total.charge === null || total.charge === undefined ? "" : ` = ${number(total.charge)} ${total.charge_unit}`;
  return h("div", { key: word, title: "Allocated GPU hours, and charge by the site's price table; from the ledger" }, h("dt", {}, word), h("dd", {}, `${number(total.gpu_hours, 1)} GPU h${charge}`));
}
