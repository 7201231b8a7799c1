// Shows Markdown of a model as nodes. The text is hostile: it becomes text nodes and a closed set of
// elements, never HTML; links go to http, https and mailto only; pictures are not loaded. Every scan
// is linear, so no answer can make the page hang.

import { el } from "./dom.js";

const DEPTH_MAX = 6;
const LABEL_MAX = 500;
const TARGET_MAX = 2000;
const SAFE_LINK = /^(?:https?:\/\/|mailto:)[^\s<>"]+$/i;
const FENCE = /^\s{0,3}(```|~~~)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;

export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.split("\n"), 0));
  return fragment;
}

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const [node, next] = block(lines, at, depth);
    if (node !== null) found.push(node);
    at = next;
  }
  return found;
}

function block(lines, at, depth) {
  const line = lines[at];
  if (line.trim() === "") return [null, at + 1];
  if (FENCE.test(line)) return code(lines, at);
  const heading = HEADING.exec(line);
  if (heading) {
    return [el("p", { class: `heading heading-${heading[1].length}` }, inline(heading[2])), at + 1];
  }
  if (RULE.test(line)) return [el("hr"), at + 1];
  if (depth < DEPTH_MAX && line.startsWith(">")) return quote(lines, at, depth);
  if (depth < DEPTH_MAX && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

function code(lines, at) {
  const mark = FENCE.exec(lines[at])[1];
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  return [el("pre", { tabindex: "0" }, el("code", {}, text)), end + 1];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && lines[end].startsWith(">")) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(/^> ?/, ""));
  return [el("blockquote", {}, ...blocks(inner, depth + 1)), end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const indent = first[1].length;
  const ordered = first[2] !== undefined;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (item && item[1].length <= indent + 1 && (item[2] !== undefined) === ordered) {
      items.push([item[3]]);
    } else if (items.length && (item || /^\s{2,}\S/.test(lines[end])) && indentOf(lines[end]) > indent) {
      items[items.length - 1].push(lines[end].slice(Math.min(indent + 2, indentOf(lines[end]))));
    } else break;
    end += 1;
  }
  const nodes = items.map((inner) =>
    inner.length === 1
      ? el("li", {}, inline(inner[0]))
      : el("li", {}, inline(inner[0]), ...blocks(inner.slice(1), depth + 1)),
  );
  const start = ordered && first[2] !== "1" ? { start: first[2] } : {};
  return [el(ordered ? "ol" : "ul", start, ...nodes), end];
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function isTable(lines, at) {
  const rule = lines[at + 1];
  return lines[at].includes("|") && rule !== undefined && rule.includes("-") && /^[\s|:-]+$/.test(rule);
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const head = el("tr", {}, ...cells(lines[at]).map((cell) => el("th", { scope: "col" }, inline(cell))));
  const rows = lines
    .slice(at + 2, end)
    .map((line) => el("tr", {}, ...cells(line).map((cell) => el("td", {}, inline(cell)))));
  return [el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)), end];
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((cell) => cell.trim());
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() !== "" && !begins(lines[end])) end += 1;
  return [el("p", {}, inline(lines.slice(at, end).join("\n"))), end];
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || line.startsWith(">");
}

const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

function inline(text, depth = 0) {
  const nodes = [];
  // Where a mark has no end from here on, it has none further on either.
  const endless = new Set();
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  while (at < text.length) {
    const found = depth < DEPTH_MAX ? span(text, at, depth, endless) : null;
    if (found === null) {
      if (text[at] === "\\" && /[\\`*_~[\]#>|-]/.test(text[at + 1] ?? "")) at += 1;
      plain += text[at];
      at += 1;
      continue;
    }
    flush();
    nodes.push(found[0]);
    at = found[1];
  }
  flush();
  return nodes;
}

function span(text, at, depth, endless) {
  const first = text[at];
  if (first === "\n") return [el("br"), at + 1];
  if (first === "`") return codeSpan(text, at, endless);
  if (first === "[") return link(text, at);
  for (const [mark, tag] of MARKS) {
    if (endless.has(mark) || !text.startsWith(mark, at)) continue;
    // A mark within a word, as in snake_case, marks nothing.
    if (mark.includes("_") && /\w/.test(text[at - 1] ?? "")) continue;
    const start = at + mark.length;
    if (/\s/.test(text[start] ?? " ")) continue;
    const end = text.indexOf(mark, start + 1);
    if (end < 0) endless.add(mark);
    else if (!/\s/.test(text[end - 1])) {
      return [el(tag, {}, inline(text.slice(start, end), depth + 1)), end + mark.length];
    }
  }
  return null;
}

function codeSpan(text, at, endless) {
  if (endless.has("`")) return null;
  const end = text.indexOf("`", at + 1);
  if (end < 0) {
    endless.add("`");
    return null;
  }
  return [el("code", {}, text.slice(at + 1, end)), end + 1];
}

function link(text, at) {
  const near = text.slice(at, at + LABEL_MAX);
  const middle = near.indexOf("](");
  if (middle < 0 || near.lastIndexOf("\n", middle) >= 0) return null;
  const target = text.slice(at + middle + 2, at + middle + 2 + TARGET_MAX);
  const end = target.indexOf(")");
  if (end < 0 || !SAFE_LINK.test(target.slice(0, end))) return null;
  const href = target.slice(0, end);
  const attributes = { href, rel: "noopener noreferrer nofollow", target: "_blank", title: href };
  return [el("a", attributes, inline(near.slice(1, middle), DEPTH_MAX)), at + middle + 3 + end];
}
