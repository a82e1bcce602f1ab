// Markdown to descriptions of elements (dom.js): a small part of it, and never markup. What it does not know stays text.

import { h } from "./dom.js";
import { visible } from "./format.js";

/** Return the blocks of a text. */
export function markdown(text) {
  const lines = visible(text).split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^\s{0,3}(`{3,}|~{3,})\s*([\w+-]*)/.exec(line);
    if (fence) {
      const code = [];
      for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) code.push(lines[at]);
      at += 1;
      blocks.push(codeBlock(code.join("\n"), fence[2]));
    } else if (!line.trim()) at += 1;
    else if (/^\s{0,3}#{1,6}\s/.test(line)) { blocks.push(h("h4", {}, inline(line.replace(/^\s*#+\s*/, "")))); at += 1; }
    else if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) { blocks.push(h("hr", {})); at += 1; }
    else if (isRow(line) && /^\s*\|?[\s:|-]+\|[\s:|-]*$/.test(lines[at + 1] || "")) {
      const rows = [];
      for (rows.push(cells(line)), at += 2; at < lines.length && isRow(lines[at]); at += 1) rows.push(cells(lines[at]));
      blocks.push(h("table", {}, h("thead", {}, h("tr", {}, rows[0].map((cell) => h("th", {}, inline(cell))))), h("tbody", {}, rows.slice(1).map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell))))))));
    } else if (/^\s{0,3}>/.test(line)) {
      const quoted = [];
      for (; at < lines.length && /^\s{0,3}>/.test(lines[at]); at += 1) quoted.push(lines[at].replace(/^\s*>\s?/, ""));
      blocks.push(h("blockquote", {}, markdown(quoted.join("\n"))));
    } else if (ITEM.test(line)) {
      const list = takeList(lines, at);
      blocks.push(list.block);
      at = list.next;
    } else {
      const words = [];
      for (; at < lines.length && lines[at].trim() && !/^\s{0,3}(`{3,}|~{3,}|#{1,6}\s|>)/.test(lines[at]) && !(words.length && ITEM.test(lines[at])); at += 1) words.push(lines[at].trim());
      blocks.push(h("p", {}, inline(words.join("\n"))));
    }
  }
  return blocks;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const isRow = (line) => line.includes("|") && line.trim().length > 1;
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function takeList(lines, at) {
  const first = ITEM.exec(lines[at]), indent = first[1].length, items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (item && item[1].length <= indent + 1 && item[1].length >= indent) { items.push([item[3]]); at += 1; }
    else if (items.length && (lines[at].startsWith(" ".repeat(indent + 2)) || (!lines[at].trim() && ITEM.test(lines[at + 1] || "")))) { items[items.length - 1].push(lines[at].slice(indent + 2)); at += 1; }
    else break;
  }
  const isNumbered = /\d/.test(first[2]);
  const content = (item) => (item.length === 1 ? inline(item[0]) : markdown(item.join("\n")));
  return { next: at, block: h(isNumbered ? "ol" : "ul", isNumbered ? { start: parseInt(first[2], 10) } : {}, items.map((item) => h("li", {}, content(item)))) };
}

function codeBlock(text, language) {
  return h("div", { class: "code" }, h("div", { class: "meta" }, h("span", {}, language || "text"), h("button", { type: "button", class: "quiet", onclick: () => navigator.clipboard.writeText(text) }, "Copy")), h("pre", { tabindex: "0" }, text));
}

// code, bold, emphasis, links; the first that begins decides
const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^*\n][\s\S]*?)\*\*|__([^_\n]+?)__|\*([^*\s][^*\n]*?)\*|\[([^\]\n]{1,300})\]\(([^()\s]{1,2000})\)/;

function inline(text, depth = 0) {
  const found = [];
  let rest = text;
  for (let match; depth < 6 && (match = INLINE.exec(rest)); rest = rest.slice(match.index + match[0].length)) {
    found.push(rest.slice(0, match.index));
    if (match[2] !== undefined) found.push(h("code", {}, match[2].trim()));
    else if (match[3] !== undefined || match[4] !== undefined) found.push(h("strong", {}, inline(match[3] ?? match[4], depth + 1)));
    else if (match[5] !== undefined) found.push(h("em", {}, inline(match[5], depth + 1)));
    else found.push(link(match[6], match[7]));
  }
  found.push(rest);
  return found;
}

// a model may write any address: only web pages are links, and they are shown in full
function link(words, address) {
  if (!/^https?:\/\//i.test(address)) return `[${words}](${address})`;
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer", title: address }, words);
}
