// The dashboard: follows the numbers of all Routers, and says what is wrong.

import { el, find, styled, svg, tierClass } from "./dom.js";
import { age, clock, DASH, money, percent, rate, reason, score, seconds, whole } from "./format.js";
import { askForKey, call, events, forgetKey, hasKey, readFacts, showReader } from "./service.js";

const RETRY_MS = [500, 1000, 2000, 5000];
const ENGINES_SHOWN = 24;
const KV_HIGH = 0.95;
const FULL = 0.04;

let names = [];
let paused = false;
let failures = 0;
let current = null;

// --- the stream

async function follow() {
  for (;;) {
    try {
      await seen();
      await readStream();
      failures = 0;
    } catch (error) {
      if (!(await recover(error))) return;
    }
  }
}

async function readStream() {
  current = new AbortController();
  const response = await call("dashboard/events", { signal: current.signal });
  for await (const summary of events(response)) {
    failures = 0;
    if (!paused) show(summary);
  }
}

// Whether to go on after an error.
async function recover(error) {
  if (error.name === "AbortError") return true;
  if (error.status === 401) {
    const wrong = hasKey();
    forgetKey();
    await askForKey(wrong ? "That key is not valid. Try another one." : "Type in your key.");
    return true;
  }
  if (error.status === 403 || error.status === 404) {
    const why = error.status === 404 ? "The dashboard is off (`pages.dashboard`)." : error.message;
    showConnection("Off", "off");
    find("troubles").replaceChildren(el("p", { class: "note bad" }, why));
    return false;
  }
  showConnection("No connection, trying again", "off");
  find("numbers").classList.add("stale");
  await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]));
  failures += 1;
  return true;
}

function showConnection(text, state) {
  find("live").textContent = text;
  find("live").className = `live ${state}`;
}

// --- one summary

function show(summary) {
  names = summary.tiers.map((tier) => tier.name);
  const asked = summary.routers.length + summary.missing;
  showConnection(`Live, ${summary.routers.length} of ${asked} Router${asked === 1 ? "" : "s"}, ${clock(summary.at)}`, "on");
  find("numbers").classList.remove("stale");
  showTroubles(summary);
  find("figures").replaceChildren(...figures(summary));
  find("calls-note").textContent = `ended in the last ${summary.window_s / 60} minutes, in steps of ${summary.series.step_s} s`;
  find("chart").replaceChildren(chart(summary.series), key(summary));
  find("tiers").replaceChildren(tierTable(summary.tiers));
  find("routing").replaceChildren(...routing(summary.routing));
  find("decisions").replaceChildren(bars(summary.decisions, { text: reason, none: "No calls yet." }));
  find("errors").replaceChildren(bars(summary.errors, { text: (code) => code, bad: true, none: "None in the last 5 minutes." }));
  find("slow").replaceChildren(slowTable(summary));
  find("routers").replaceChildren(routerTable(summary));
}

let troubles = "";

function showTroubles(summary) {
  const found = listTroubles(summary);
  const text = JSON.stringify(found);
  if (text === troubles) return; // a screen reader reads each change aloud
  troubles = text;
  find("troubles").replaceChildren(...found.map(([kind, words]) => el("p", { class: `note ${kind}` }, words)));
}

function listTroubles(summary) {
  const found = [];
  for (const tier of summary.tiers) {
    if (!tier.ready) found.push(["bad", `Tier ${tier.name} is not ready (${tier.status.toLowerCase()}). ${tier.message ?? "Other tiers go on answering."}`]);
    else if (tier.down_for) found.push(["bad", `Tier ${tier.name} does not answer ${tier.down_for} of ${summary.routers.length} Routers.`]);
    else if (tier.message) found.push(["warn", `Tier ${tier.name}: ${tier.message}`]);
    if (tier.avoided) found.push(["warn", `Tier ${tier.name}: ${tier.avoided} replicas fail and are avoided.`]);
  }
  if (summary.missing) found.push(["warn", `${summary.missing} Router${summary.missing > 1 ? "s do" : " does"} not answer; its numbers are missing here.`]);
  if (summary.unclear) found.push(["warn", `${summary.unclear}.`]);
  if (summary.routing.drifting) found.push(["warn", "The scores of the calls drift: the traffic has changed since the threshold was chosen."]);
  return found;
}

function figure(label, value, more, kind = "") {
  return el(
    "div",
    { class: "figure" },
    el("div", { class: "label" }, label),
    el("div", { class: `value ${kind}` }, value),
    el("div", { class: "more" }, more),
  );
}

function figures({ calls, routing: state, money: amounts, tiers }) {
  const ratio = calls.ended ? calls.failed / calls.ended : 0;
  const waiting = tiers.reduce((sum, tier) => sum + tier.waiting + (tier.queued ?? 0), 0);
  const aim = state.target === null ? `threshold ${score(state.threshold_min)}` : `target ${percent(state.target)}`;
  const found = [
    figure("Calls a second", rate(calls.per_s), `${whole(calls.ended_ever)} since the start`),
    figure("In flight", whole(calls.in_flight), `${whole(waiting)} wait`),
    figure("Failed", percent(ratio, 1), `${whole(calls.failed)} of ${whole(calls.ended)} calls`, ratio >= 0.01 ? "bad" : ""),
    figure(`Share of ${state.strongest}`, percent(state.share), `${aim}, of ${whole(state.routed)} routed`),
  ];
  if (amounts === null) return [...found, figure("Saved", DASH, "no prices are configured")];
  const all = amounts.cost + amounts.saved;
  const saving = all > 0 ? `${percent(amounts.saved / all)} of all ${state.strongest}` : "nothing spent yet";
  return [
    ...found,
    figure("Spent", money(amounts.cost, amounts.currency), `${money(amounts.cost_lately, amounts.currency)} in 5 min`),
    figure("Saved", money(amounts.saved, amounts.currency), saving, amounts.saved > 0 ? "good" : ""),
  ];
}

// --- the chart

const NARROWEST = 300;
const HEIGHT = 150;
const FLOOR = 132;
const LEFT = 44;

function niceTop(most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [2, 4, 6, 10].map((factor) => factor * size).find((top) => top >= most) ?? most;
}

function chart(series) {
  const width = Math.max(find("chart").clientWidth, NARROWEST);
  const steps = series.failed.length;
  const sums = series.failed.map((_, at) => names.reduce((sum, name) => sum + series.tiers[name][at], 0));
  const top = niceTop(Math.max(...sums));
  const y = (value) => FLOOR - (value / top) * (FLOOR - 8);
  const wide = (width - LEFT) / steps;
  const parts = [0, top / 2, top].flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, whole(value)),
  ]);
  for (let at = 0; at < steps; at += 1) parts.push(...column(series, at, LEFT + at * wide, wide, y));
  parts.push(
    svg("text", { x: LEFT, y: HEIGHT - 3 }, `${(steps * series.step_s) / 60} min ago`),
    svg("text", { x: width, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
  );
  const total = sums.reduce((sum, value) => sum + value, 0);
  const label = `${total} calls ended in the last minutes, at most ${Math.max(...sums)} in ${series.step_s} seconds`;
  return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, ...parts);
}

function column(series, at, x, wide, y) {
  const parts = [];
  let below = 0;
  for (const name of names) {
    const calls = series.tiers[name][at];
    if (!calls) continue;
    const edges = { x: x + 1, width: wide - 2, y: y(below + calls), height: y(below) - y(below + calls) };
    parts.push(svg("g", { class: tierClass(names, name) }, svg("rect", { class: "bar-rect", ...edges })));
    below += calls;
  }
  if (series.failed[at]) parts.push(svg("rect", { class: "fail", x: x + 1, width: wide - 2, y: FLOOR + 2, height: 3 }));
  return parts;
}

function key({ calls, tiers }) {
  const items = tiers.map((tier) =>
    el("span", { class: tierClass(names, tier.name) }, el("span", { class: "badge" }, tier.name), ` ${whole(tier.calls)}`),
  );
  return el("div", { class: "key" }, ...items, calls.failed ? el("span", { class: "fail-key" }, `failed ${whole(calls.failed)}`) : null);
}

// --- tables

function table(heads, rows) {
  const head = heads.map(([text, kind, title]) => el("th", { scope: "col", class: kind, title }, text));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

function row(heads, cells, kind = "") {
  return el("tr", { class: kind }, ...cells.map((cell, at) => el("td", { class: heads[at][1] }, cell)));
}

function meter(name, ratio) {
  if (ratio === null) return el("span", { class: "soft", title: "No engine has reported in the last seconds." }, "idle");
  const full = styled(el("div", { class: ratio >= KV_HIGH ? "full high" : "full" }), { width: `${Math.max(ratio, ratio > 0 ? FULL : 0) * 100}%` });
  const track = el("div", { class: "track", "aria-hidden": "true" }, full);
  return el("span", { class: `meter ${tierClass(names, name)}` }, track, percent(ratio, 1));
}

const TIER_HEADS = [
  ["Tier", ""],
  ["State", ""],
  ["Replicas", "right"],
  ["Leases", "right", "Places that the Routers hold on replicas"],
  ["Waiting", "right", "Calls that wait for a place"],
  ["Running", "right", "Calls that the engines work on"],
  ["Queued", "right", "Calls that wait in the engines"],
  ["KV cache used", ""],
  ["First token p50", "right", "Of streamed calls in the last 5 minutes"],
  ["p95", "right"],
  ["Tokens/s", "right", "Generated, in the last 10 seconds"],
];

function tierTable(tiers) {
  return table(TIER_HEADS, tiers.flatMap((tier) => [tierRow(tier), ...engineRows(tier)]));
}

function tierRow(tier) {
  const name = el("span", { class: tierClass(names, tier.name) }, el("span", { class: "badge" }, tier.name));
  const cells = [
    el("div", {}, name, el("div", { class: "mono soft" }, tier.model_id)),
    state(tier),
    whole(tier.replicas),
    whole(tier.leases),
    whole(tier.waiting),
    whole(tier.running),
    whole(tier.queued),
    meter(tier.name, tier.kv_used_ratio),
    seconds(tier.first_token_p50_s),
    seconds(tier.first_token_p95_s),
    rate(tier.output_tokens_per_s),
  ];
  return row(TIER_HEADS, cells);
}

function state(tier) {
  if (!tier.ready) return el("span", { class: "bad-text" }, "● not ready");
  if (tier.down_for || tier.breaker === "open") return el("span", { class: "bad-text" }, "● down");
  if (tier.breaker === "half_open") return el("span", { class: "warn-text" }, "● tried again");
  if (tier.message || tier.status !== "HEALTHY") return el("span", { class: "warn-text" }, `● ${tier.status.toLowerCase()}`);
  return el("span", { class: "good-text" }, "● ready");
}

function engineRows(tier) {
  if (tier.engines.length < 2) return [];
  const rows = tier.engines.slice(0, ENGINES_SHOWN).map((engine) =>
    row(
      TIER_HEADS,
      [engine.address, "", "", "", "", whole(engine.running), whole(engine.queued), meter(tier.name, engine.kv_used_ratio), "", "", ""],
      "engine",
    ),
  );
  const more = tier.engines.length - ENGINES_SHOWN;
  if (more > 0) rows.push(el("tr", { class: "engine" }, el("td", { colspan: TIER_HEADS.length }, `and ${more} more`)));
  return rows;
}

const SLOW_HEADS = [["Took", "right"], ["First byte", "right"], ["Tokens", "right"], ["Tier", ""], ["Why there", ""], ["Outcome", ""], ["At", ""], ["Request", ""]];

function slowTable({ slowest }) {
  if (!slowest.length) return el("p", { class: "empty" }, "No calls in the last 5 minutes.");
  const rows = slowest.map((each) =>
    row(SLOW_HEADS, [
      seconds(each.total_s),
      seconds(each.first_byte_s),
      whole(each.completion_tokens),
      each.tier === null ? DASH : el("span", { class: tierClass(names, each.tier) }, el("span", { class: "badge" }, each.tier)),
      each.reason ?? DASH,
      el("span", { class: each.outcome === "ok" ? "" : "bad-text" }, each.outcome),
      clock(each.arrived_at),
      el("span", { class: "mono soft" }, each.request_id),
    ]),
  );
  return table(SLOW_HEADS, rows);
}

const ROUTER_HEADS = [["Router", ""], ["In flight", "right"], ["Calls", "right"], ["Up for", "right"]];

function routerTable({ routers, at, missing }) {
  const rows = routers.map((each) =>
    row(ROUTER_HEADS, [el("span", { class: "mono" }, each.router), whole(each.in_flight), whole(each.calls), age(at - each.started_at)]),
  );
  if (missing) rows.push(el("tr", {}, el("td", { colspan: 4, class: "warn-text" }, `${missing} without an answer`)));
  return table(ROUTER_HEADS, rows);
}

// --- bars and the share

function bars(counts, { text, bad = false, none }) {
  if (!counts.length) return el("p", { class: "empty" }, none);
  const most = counts[0].calls;
  const parts = counts.flatMap(({ tier, what, calls }) => {
    const full = styled(el("div", { class: bad ? "full bad" : "full" }), { width: `${(calls / most) * 100}%` });
    const words = el("span", { title: text(what) }, what);
    return [
      el("div", { class: `what ${tierClass(names, tier)}` }, el("span", { class: "badge" }, tier), words),
      el("div", { class: `track ${tierClass(names, tier)}`, "aria-hidden": "true" }, full),
      el("div", { class: "count" }, whole(calls)),
    ];
  });
  return el("div", { class: "bars" }, ...parts);
}

function routing(state) {
  const thresholds = [...new Set([score(state.threshold_min), score(state.threshold_max)])].join(" to ");
  const pairs = [
    [`Share of ${state.strongest}`, `${percent(state.share, 1)} of ${whole(state.routed)} routed calls`],
    ["Target", state.target === null ? "none, the threshold is fixed" : percent(state.target, 1)],
    ["Threshold", thresholds],
    ["Drift", state.drift === null ? "too few scores yet" : `${state.drift.toFixed(3)}${state.drifting ? ", drifting" : ", steady"}`],
  ];
  const list = pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  return [shareBar(state), el("dl", { class: "pairs" }, ...list)];
}

function shareBar(state) {
  const share = state.share ?? 0;
  const target = state.target === null ? [] : [svg("line", { class: "target", x1: percentOf(state.target), x2: percentOf(state.target), y1: 4, y2: 26 })];
  const label = `Share of ${state.strongest}: ${percent(state.share)}${state.target === null ? "" : `, target ${percent(state.target)}`}`;
  return el(
    "div",
    { class: `share ${tierClass(names, state.strongest)}` },
    svg(
      "svg",
      { role: "img", "aria-label": label },
      svg("rect", { class: "rail", x: 0, y: 9, width: "100%", height: 12, rx: 4 }),
      svg("rect", { class: "full", x: 0, y: 9, width: percentOf(share), height: 12, rx: 4 }),
      ...target,
    ),
  );
}

function percentOf(ratio) {
  return `${ratio * 100}%`;
}

// --- begin

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  find("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) showConnection("Paused", "");
});

// A page that nobody sees asks for nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) current?.abort();
});

function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

async function begin() {
  try {
    showReader(await readFacts());
  } catch {
    // An operator may have no model to use; the numbers say whether they may be seen.
  }
  await follow();
}

begin();
