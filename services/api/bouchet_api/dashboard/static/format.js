// Numbers, times and states as people read them.

// the same as in the CLI's screen.py
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/** Show control characters (terminal escapes, direction marks) and others that are not seen as their codes. */
export function visible(text) {
  return String(text ?? "").replace(CONTROL, (one) => `\\x${one.codePointAt(0).toString(16).padStart(2, "0")}`);
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function short(value) {
  if (!isNumber(value)) return "–";
  if (value < 999.5) return number(value);
  if (value < 999_500) return `${number(value / 1e3, value < 9950 ? 1 : 0)}k`;
  return value < 999_950_000 ? `${number(value / 1e6, 1)}M` : `${number(value / 1e9, 1)}G`;
}

export function percent(share) {
  return isNumber(share) ? `${number(share * 100)} %` : "–";
}

export function bytes(value) {
  if (!isNumber(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (value >= 1023.5 && index < units.length - 1) { value /= 1024; index += 1; }
  return `${number(value, value < 10 && index ? 1 : 0)} ${units[index]}`;
}

export function seconds(value) {
  if (!isNumber(value)) return "–";
  if (value < 0.0995) return `${number(value * 1000, value < 0.00995 ? 1 : 0)} ms`;
  return `${number(value, value < 10 ? 2 : 1)} s`;
}

/** A duration in at most two units: 42 s, 3 min, 2 h 10 min, 3 d 4 h. */
export function duration(value) {
  if (!isNumber(value)) return "–";
  const total = Math.max(0, Math.round(value));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (minutes < 60) return `${minutes} min`;
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export function clock(moment, withSeconds = false) {
  const date = new Date(moment ?? NaN);
  if (Number.isNaN(date.getTime())) return "–";
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (withSeconds) options.second = "2-digit";
  const time = date.toLocaleTimeString("en-GB", options);
  const today = new Date(now());
  if (sameDay(date, today)) return time;
  const year = date.getFullYear() === today.getFullYear() ? undefined : "numeric";
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year })} ${time}`;
}

function sameDay(one, other) { return one.toDateString() === other.toDateString(); }

// how far the API's clock is ahead of this browser's, in milliseconds: all times that the page shows are the API's
let ahead = 0;
export function setClock(unixSeconds) { ahead = unixSeconds * 1000 - Date.now(); }

/** The time by the API's clock, in milliseconds. */
export function now() { return Date.now() + ahead; }

export function until(moment) { return (new Date(moment).getTime() - now()) / 1000; }

// phase -> symbol, word, kind (calm, busy, good, person)
const STATES = {
  requested: ["○", "requested", "busy"], submitting: ["○", "being submitted", "busy"],
  queued: ["◔", "queued", "busy"], starting: ["◑", "starting", "busy"], ready: ["●", "ready", "good"],
  draining: ["◕", "draining", "busy"], parked: ["◌", "parked", "calm"], ended: ["■", "ended", "calm"],
};
const ENDINGS = {
  completed: "ended as planned", cancelled: "cancelled", failed: "failed", detached: "detached", timed_out: "reached its walltime",
  preempted: "preempted", idle: "ended: it was idle",
};

export function stateOf(record) {
  const [symbol, word, kind] = STATES[record.phase] || ["?", record.phase, "calm"];
  if (record.phase !== "ended") {
    if (record.attached && record.phase === "starting") return { symbol: "▲", word: "not reachable", kind: "person" };
    if (record.service && record.service.paused) return { symbol: "▲", word: "paused", kind: "person" };
    return { symbol, word, kind };
  }
  const isBad = record.ending === "failed";
  return { symbol: isBad ? "▲" : symbol, word: ENDINGS[record.ending] || word, kind: isBad ? "person" : kind };
}

/** The job that serves, as the records have it: the last one. */
export function jobOf(record) { return record.jobs.length ? record.jobs[record.jobs.length - 1] : null; }

export function deadlineOf(job) {
  const started = job && job.since && job.since.starting;
  if (!started || !job.placement || !["starting", "ready", "draining"].includes(job.phase)) return null;
  return new Date(started).getTime() + job.placement.walltime_s * 1000;
}
