// Line charts of the last hour as SVG, each with a table of the same numbers.

import { h } from "./dom.js";
import { clock, now as clockNow, number, percent, seconds, short } from "./format.js";

const WIDTH = 320, HEIGHT = 96, HOUR_S = 3600;
// a longer pause between two readings is shown as a gap
const GAP_S = 95;

const CHARTS = [
  { title: "Time to first token", source: "vllm:time_to_first_token_seconds", series: [["first50", "median"], ["first95", "95 %"]], show: seconds },
  { title: "Time between tokens", source: "vllm:inter_token_latency_seconds", series: [["next50", "median"], ["next95", "95 %"]], show: seconds },
  { title: "Requests", source: "vllm:num_requests_running, _waiting", series: [["running", "running"], ["waiting", "waiting"]], show: (value) => number(value), least: 4 },
  { title: "Tokens a second", source: "vllm:generation_tokens_total", series: [["made", "generated"]], show: short, least: 10 },
  { title: "KV cache used", source: "vllm:kv_cache_usage_perc", series: [["kv", "used"]], show: percent, most: 1 },
  { title: "Prompt tokens found in the cache", source: "vllm:prefix_cache_hits_total", series: [["hits", "found"]], show: percent, most: 1 },
  { title: "Preemptions", source: "vllm:num_preemptions_total", series: [["preempted", "preempted"]], show: (value) => number(value), least: 4 },
];

// titles of the charts whose table is open: a closed one is not made
const opened = new Set();

export function charts(points) {
  return h("div", { class: "charts" }, CHARTS.map((chart) => figure(chart, points)));
}

function figure(chart, points) {
  const now = clockNow() / 1000, top = highest(chart, points);
  const last = points[points.length - 1];
  const values = chart.series.map(([key, word]) => [word, chart.show(last ? last[key] : null)]);
  const summary = values.map(([word, value]) => `${word} ${value}`).join(", ");
  return h("figure", { key: chart.title, class: "chart", title: `Source: ${chart.source}` },
    h("figcaption", {}, h("b", {}, chart.title), h("span", { class: "legend" }, values.map(([word, value], index) => h("span", { key: word, class: `s${index}` }, h("i", { "aria-hidden": "true" }), `${word} `, h("b", {}, value))))),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${chart.title}, the last hour. Now: ${summary}` },
      [0.25, 0.5, 0.75].map((share) => h("line", { key: share, class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share })),
      chart.series.map(([key], index) => h("path", { key, class: `s${index}`, d: line(points, key, now, top, WIDTH, HEIGHT), "vector-effect": "non-scaling-stroke" }))),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}, clock((now - HOUR_S) * 1000)), h("span", {}, `top: ${chart.show(top)}`), h("span", {}, clock(now * 1000))),
    h("details", { ontoggle: (event) => toggle(chart.title, event.target.open) }, h("summary", {}, "Table"), opened.has(chart.title) ? table(chart, points) : null));
}

function toggle(title, isOpen) {
  opened[isOpen ? "add" : "delete"](title);
  window.dispatchEvent(new Event("redraw"));
}

function highest(chart, points) {
  if (chart.most) return chart.most;
  let top = chart.least || 0;
  for (const point of points) for (const [key] of chart.series) if (point[key] > top) top = point[key];
  return top || 1;
}

function line(points, key, now, top, width, height) {
  let path = "", before = 0;
  for (const point of points) {
    const value = point[key];
    if (value === null || value === undefined) continue;
    const x = ((point.at - now) / HOUR_S + 1) * width;
    if (x < 0) continue;
    const y = height - 1 - Math.min(1, value / top) * (height - 2);
    path += `${!path || point.at - before > GAP_S ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = point.at;
  }
  return path || "M0 0";
}

// one row a minute: what a person can read, and a page can hold
function table(chart, points) {
  const rows = new Map();
  for (const point of points) rows.set(Math.floor(point.at / 60), point);
  const shown = [...rows.values()].slice(-60).reverse();
  return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${chart.title}, table` }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "time"), chart.series.map(([key, word]) => h("th", { key, scope: "col", class: "n" }, word)))),
    h("tbody", {}, shown.map((point) => h("tr", { key: point.at }, h("td", {}, clock(point.at * 1000)), chart.series.map(([key]) => h("td", { key, class: "n" }, chart.show(point[key]))))))));
}

export function sparkline(points, key, label) {
  const top = Math.max(1, ...points.map((point) => point[key] || 0));
  return h("svg", { class: "spark", viewBox: "0 0 160 28", preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("path", { class: "s0", d: line(points, key, clockNow() / 1000, top, 160, 28), "vector-effect": "non-scaling-stroke" }));
}
