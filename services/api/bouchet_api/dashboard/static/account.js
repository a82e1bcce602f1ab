// What it costs: hours of GPUs and charge, today and this month, from the ledger.

import { ask } from "./client.js";
import { h } from "./dom.js";
import { number, percent } from "./format.js";

const PARTS = [["serving", "serving"], ["idle", "idle"], ["starting", "starting"], ["draining", "draining"]];

/** Read today's and this month's sums; null if the ledger cannot be read. */
export async function readAccount() {
  const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");
  const now = new Date(), pad = (value) => String(value).padStart(2, "0");
  const month = `${now.getFullYear()}-${pad(now.getMonth() + 1)}`, day = `${month}-${pad(now.getDate())}`;
  try {
    const [today, whole] = await Promise.all([ask("GET", `/v1/ledger/gpu?by=day&zone=${zone}&from=${day}&to=${day}`), ask("GET", `/v1/ledger/gpu?by=day&zone=${zone}&month=${month}`)]);
    return { today: today.total, month: whole.total, problem: "" };
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
    h("dl", {}, sums("today", account.today), sums("this month", month)),
    all ? h("div", { class: "share", role: "img", "aria-label": shares.map(([, word, share]) => `${word} ${percent(share)}`).join(", "), title: "Of this month's GPU hours, from the ledger" }, shares.map(([key, , share]) => h("i", { key, class: key, style: { width: `${(share * 100).toFixed(1)}%` } }))) : null,
    all ? h("p", { class: "hint" }, shares.map(([, word, share]) => `${word} ${percent(share)}`).join(" · ")) : h("p", { class: "hint" }, "No GPU has been used this month."));
}

function sums(word, total) {
  const charge = total.charge === null || total.charge === undefined ? "" : ` = ${number(total.charge)} ${total.charge_unit}`;
  return h("div", { key: word, title: "Allocated GPU hours, and charge by the site's price table; from the ledger" }, h("dt", {}, word), h("dd", {}, `${number(total.gpu_hours, 1)} GPU h${charge}`));
}
