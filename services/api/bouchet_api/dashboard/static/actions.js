// What a person can do here: dialogs, changes, notifications, theme.

import { readAccount } from "./account.js";
import { ask } from "./client.js";
import { h } from "./dom.js";
import { visible } from "./format.js";
import { cancelDialog, keepDialog, launchDialog } from "./dialogs.js";

const THEMES = ["", "light", "dark"];

export function makeActions(state, redraw, notice) {
  let open = null;
  const attempt = async (work, done) => {
    try {
      await work();
      if (done) notice(done);
      return true;
    } catch (error) {
      notice(error.message);
      return false;
    }
  };
  const act = {
    redraw, notice,
    show: (name) => { location.hash = name.split("/").map(encodeURIComponent).join("/"); },
    choose: (job) => { state.chosenJob = job; redraw(); },
    connect: () => attempt(() => ask("POST", "/v1/tunnel/connect"), "Connecting now."),
    trust: (fingerprint) => attempt(() => ask("POST", "/v1/tunnel/trust", { fingerprint }), "The host key is trusted; connecting."),
    answer: (prompt, responses, form) => attempt(() => ask("POST", "/v1/tunnel/answer", { prompt_id: prompt, responses }), "Sent to the login node.").then((sent) => { if (sent) form.reset(); }),
    launch: (like) => { openDialog(launchDialog(state, act, like)); },
    keep: (record) => { openDialog(keepDialog(record, act)); },
    cancel: (record) => { openDialog(cancelDialog(record, act)); },
    close: () => { const element = document.querySelector("dialog"); if (element) element.close(); },
    dialog: () => (open ? h("dialog", { key: open.key, class: "dialog", ref: (node) => requestAnimationFrame(() => node.isConnected && !node.open && node.showModal()), onclose: () => { open = null; redraw(); }, "aria-labelledby": "dialog-title" }, open.view()) : null),
    applyTheme: () => { const theme = localStorage.getItem("theme") || ""; if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme; },
    changeTheme: () => {
      const next = THEMES[(THEMES.indexOf(localStorage.getItem("theme") || "") + 1) % THEMES.length];
      localStorage.setItem("theme", next);
      act.applyTheme();
      notice(next ? `The page is ${next}.` : "The page is light or dark as the system is.");
    },
    notifies: () => localStorage.getItem("notify") === "yes" && "Notification" in window && Notification.permission === "granted",
    // permission is asked for here alone: on a click
    switchNotifications: async () => {
      if (act.notifies()) { localStorage.setItem("notify", "no"); notice("This browser says nothing any more."); redraw(); return; }
      if (!("Notification" in window)) { notice("This browser has no notifications."); return; }
      const answer = await Notification.requestPermission();
      localStorage.setItem("notify", answer === "granted" ? "yes" : "no");
      notice(answer === "granted" ? "This browser says when a model is ready, has ended, or needs you." : "The browser refuses notifications for this page; its settings allow them.");
      redraw();
    },
    // several pages that are open show one notification: they give it the same tag
    announce: (before, after) => {
      for (const { text, calls } of changes(before, after)) {
        notice(text);
        if (calls && document.hidden && act.notifies()) new Notification("bouchet", { body: text, tag: text });
      }
    },
    readAccount: async () => { state.account = await readAccount(); redraw(); },
  };
  function openDialog(dialog) { open = { key: `dialog ${Date.now()}`, ...dialog }; redraw(); }
  return act;
}

/** What a person wants to hear of: read out by screen readers and shown for some seconds; if it calls, also as a notification. */
export function changes(before, after) {
  if (!before) return [];
  const phases = new Map(before.deployments.map((one) => [one.id, one.phase]));
  const found = [], add = (text, calls = true) => found.push({ text, calls });
  for (const one of after.deployments) {
    const earlier = phases.get(one.id);
    if (earlier && earlier !== one.phase && one.phase === "ready") add(`${visible(one.names[0])} is ready.`);
    if (earlier && earlier !== one.phase && one.phase === "parked") add(`${visible(one.names[0])} is parked.`, false);
  }
  const known = new Set(before.ended.map((one) => one.id));
  for (const one of after.ended) if (!known.has(one.id) && phases.has(one.id)) add(`${visible(one.names[0])} has ended: ${visible(one.reason || one.ending)}`);
  const waits = (status, part) => Boolean(status.tunnel && status.tunnel[part]);
  if (waits(after, "prompt") && !waits(before, "prompt")) add("The login needs your answer.");
  if (waits(after, "host_key") && !waits(before, "host_key")) add("The login node shows an unknown host key.");
  return found;
}
