// The playground: a conversation, who answers each question, and why.

import { Answer } from "./answer.js";
import { el, find, svg } from "./dom.js";
import { nanos, percent } from "./format.js";
import { askForKey, forgetKey, post, readFacts, showReader } from "./service.js";

const EXAMPLES = [
  "What is the capital of France?",
  "Tom has 4 boxes with 6 apples each and gives away 9. How many apples are left?",
  "Sort these numbers from small to large: 42, 7, 19, 3, 88",
  "How many metres are 3 kilometres?",
];

const page = {
  conversation: find("conversation"),
  question: find("question"),
  send: find("send"),
  stop: find("stop"),
  status: find("status"),
};
// Each turn has a question and the one answer that the conversation goes on with.
const turns = [];
const sums = { calls: {}, cost: 0, strongCost: 0, priced: 0 };
let facts = null;
let running = null;

function modes() {
  const names = facts.tiers.map((tier) => tier.name);
  const [weakest, strongest] = [names[0], names[names.length - 1]];
  const cascade = { id: "cascade", label: "Cascade", model: "auto", headers: { "x-route-policy": "cascade" } };
  const found = [{ id: "auto", label: "Auto", model: "auto" }];
  if (names.length > 1 && facts.overrides) found.push(cascade);
  for (const name of names) found.push({ id: `tier-${name}`, label: name, model: name });
  if (names.length > 1) {
    found.push({ id: "compare", label: `${weakest} beside ${strongest}`, models: [weakest, strongest] });
  }
  return found;
}

function showModes() {
  const inputs = modes().map((mode, place) => {
    const input = el("input", { type: "radio", name: "mode", value: mode.id, checked: place === 0 });
    return el("label", {}, input, el("span", {}, mode.label));
  });
  find("modes").append(...inputs);
}

function chosenMode() {
  const chosen = document.querySelector("#modes input:checked");
  return modes().find((mode) => mode.id === chosen.value);
}

function showExamples() {
  const items = EXAMPLES.map((text) => {
    const button = el("button", { type: "button" }, text);
    button.addEventListener("click", () => submit(text));
    return el("li", {}, button);
  });
  find("examples").replaceChildren(...items);
}

// The Router explains the decision of a call without answering it.
async function explain(body, headers, signal) {
  try {
    return await (await post("v1/route", { ...body, model: "auto" }, { headers, signal })).json();
  } catch {
    return null;
  }
}

async function submit(text) {
  const question = text.trim();
  // A reader may be quicker than the first answer of the service: the question waits for it.
  await begun;
  if (!question || running !== null || facts === null) return;
  running = new AbortController();
  showRunning(true);
  find("welcome").hidden = true;
  page.question.value = "";
  resize();
  try {
    await answer(question, chosenMode(), running.signal);
  } finally {
    running = null;
    showRunning(false);
    showTally();
  }
}

async function answer(question, mode, signal) {
  const messages = turns.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.answer.text },
  ]);
  messages.push({ role: "user", content: question });
  const asked = (mode.models ?? [mode.model]).map((model) => prepare(model, mode, messages, signal));
  const answers = asked.map(([each]) => each);
  const grid = el("div", { class: answers.length > 1 ? "answers pair" : "answers" }, ...answers.map((each) => each.node));
  const turn = el("section", { class: "turn" }, el("h2", { class: "question" }, question), grid);
  page.conversation.append(turn);
  turn.scrollIntoView({ block: "start" });
  await Promise.all(asked.map(([each, body, headers]) => each.ask(body, headers, signal)));
  if (answers.some((each) => each.status === 401)) await askAgain();
  finish(question, answers);
}

async function askAgain() {
  forgetKey();
  await askForKey("The service does not take the key any more. Type in another one.");
}

function prepare(model, mode, messages, signal) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  const headers = mode.headers ?? {};
  const route = explain({ messages }, headers, signal);
  return [new Answer(facts, route), body, headers];
}

function finish(question, answers) {
  const good = answers.filter((each) => !each.failed && each.text);
  const turn = { question, answer: good[good.length - 1] };
  for (const each of answers) {
    count(each);
    showActs(each, good.length > 1 ? turn : null);
  }
  if (good.length) turns.push(turn);
  const tiers = good.map((each) => each.tier).join(" and ");
  page.status.textContent = good.length ? `Answered by ${tiers}.` : "There is no answer.";
}

function count(each) {
  if (each.tier === null || each.failed) return;
  sums.calls[each.tier] = (sums.calls[each.tier] ?? 0) + 1;
  if (each.cost === null || each.strongCost === null) return;
  sums.cost += each.cost;
  sums.strongCost += each.strongCost;
  sums.priced += 1;
}

function showTally() {
  const calls = facts.tiers
    .filter((tier) => sums.calls[tier.name])
    .map((tier) => `${sums.calls[tier.name]} × ${tier.name}`);
  if (!calls.length) {
    find("tally").textContent = "";
    return;
  }
  const parts = [calls.join(", ")];
  if (sums.priced) {
    const strongest = facts.tiers[facts.tiers.length - 1].name;
    const saved = sums.strongCost ? 1 - sums.cost / sums.strongCost : 0;
    parts.push(`${nanos(sums.cost, facts.currency)}; all ${strongest}: ${nanos(sums.strongCost, facts.currency)}`);
    if (saved > 0) parts.push(`${percent(saved)} saved`);
  }
  find("tally").textContent = `This conversation: ${parts.join(" · ")}`;
}

function showActs(each, turn) {
  if (each.requestId === null || each.failed) return;
  const said = el("span", { class: "said soft", role: "status" });
  const thumbs = [[true, "Right", "up"], [false, "Wrong", "down"]].map(([right, label, way]) => {
    const attributes = { class: `plain ${way}`, type: "button", "aria-pressed": "false" };
    const button = el("button", attributes, thumb(), label);
    button.addEventListener("click", () => judge(each, right, thumbs, button, said));
    if (!facts.feedback) {
      button.disabled = true;
      button.title = "This service keeps no feedback (`feedback.directory`).";
    }
    return button;
  });
  const copy = el("button", { class: "plain", type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(each.text);
    said.textContent = "Copied.";
  });
  const id = el("span", { class: "mono soft said", title: "x-request-id" }, each.requestId);
  each.acts.replaceChildren(...thumbs, copy, turn === null ? id : pick(each, turn), said);
  each.acts.hidden = false;
}

function thumb() {
  const path = "M2 7h3v7H2zM5 8l3-6c1.400 1.800 1.300 2.300.9 4H13c.900 0 1.200.800 1 1.500l-1.400 5.300c-.200.800-.700 1.200-1.500 1.200H5";
  return svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: path }));
}

function pick(each, turn) {
  const name = `pick-${page.conversation.childElementCount}`;
  const radio = el("input", { type: "radio", name, checked: each === turn.answer });
  radio.addEventListener("change", () => (turn.answer = each));
  return el("label", {}, radio, "Go on with this answer");
}

async function judge(each, right, thumbs, pressed, said) {
  for (const thumb of thumbs) thumb.setAttribute("aria-pressed", String(thumb === pressed));
  try {
    await post("v1/feedback", { request_id: each.requestId, right });
    said.textContent = "Thank you: the router can learn from this.";
  } catch (error) {
    pressed.setAttribute("aria-pressed", "false");
    said.textContent = error.message;
  }
}

function showRunning(on) {
  page.send.hidden = on;
  page.stop.hidden = !on;
  find("new").disabled = on;
  page.status.textContent = on ? "The answer is being written." : page.status.textContent;
  if (!on) page.question.focus();
}

function startAnew() {
  turns.length = 0;
  Object.assign(sums, { calls: {}, cost: 0, strongCost: 0, priced: 0 });
  page.conversation.replaceChildren();
  find("welcome").hidden = false;
  showTally();
  page.question.focus();
}

function resize() {
  page.question.style.height = "auto";
  page.question.style.height = `${page.question.scrollHeight + 2}px`;
}

function pressed(event) {
  if (event.key === "Escape" && running !== null) {
    running.abort();
  } else if (event.altKey && /^[1-9]$/.test(event.key)) {
    const input = document.querySelectorAll("#modes input")[Number(event.key) - 1];
    input?.click();
    event.preventDefault();
  } else if (event.key === "/" && !event.target.matches("input, textarea")) {
    page.question.focus();
    event.preventDefault();
  }
}

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit(page.question.value);
});
page.question.addEventListener("input", resize);
page.question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit(page.question.value);
});
page.stop.addEventListener("click", () => running?.abort());
find("new").addEventListener("click", startAnew);
document.addEventListener("keydown", pressed);

async function begin() {
  try {
    facts = await readFacts();
  } catch (error) {
    find("welcome").append(el("p", { class: "note bad", role: "alert" }, error.message));
    page.send.disabled = true;
    return;
  }
  showReader(facts);
  showModes();
  showExamples();
  page.question.focus();
}

const begun = begin();
