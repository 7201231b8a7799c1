// One answer: asks the service, shows the stream, and then what it took.

import { el, styled, svg, tierClass } from "./dom.js";
import { nanos, percent, rate, reason, score, seconds, whole } from "./format.js";
import { render } from "./markdown.js";
import { events, post } from "./service.js";

const WRITING_S_MIN = 0.05;

// What a call has cost, in nanos, by the rules of the service's own bill.
function cost(price, usage) {
  if (!price) return null;
  const prompt = usage.prompt_tokens ?? 0;
  const cached = Math.min(usage.prompt_tokens_details?.cached_tokens ?? 0, prompt);
  const output = (usage.completion_tokens ?? 0) * price.output;
  return (prompt - cached) * price.input + cached * price.cached_input + output;
}

function readDraftTokens(value) {
  const found = /^in=(\d+), out=(\d+)$/.exec(value ?? "");
  return found && { prompt_tokens: Number(found[1]), completion_tokens: Number(found[2]) };
}

export class Answer {
  // `facts` are the service's; `route` is a promise of the Router's own explanation, or null.
  constructor(facts, route) {
    this.facts = facts;
    this.route = route;
    this.names = facts.tiers.map((tier) => tier.name);
    this.text = "";
    this.thoughts = "";
    this.usage = null;
    this.cost = null;
    this.strongCost = null;
    this.tier = null;
    this.requestId = null;
    this.failed = false;
    this.painting = false;
    this.who = el("div", { class: "who" }, el("span", { class: "soft" }, "Choosing a model"));
    this.body = el("div", { class: "body waiting", "aria-busy": "true" });
    this.details = el("div", { class: "facts", hidden: true });
    this.acts = el("div", { class: "acts", hidden: true });
    this.node = el("article", { class: "answer tier" }, this.who, this.body, this.details, this.acts);
  }

  async ask(body, headers, signal) {
    const started = performance.now();
    try {
      const response = await post("v1/chat/completions", body, { headers, signal });
      this.#showDecision(response.headers);
      await this.#read(response, started);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.body.classList.remove("waiting");
      this.body.setAttribute("aria-busy", "false");
    }
    this.#showBody();
    await this.#showFacts();
    return this;
  }

  async #read(response, started) {
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message ?? "The answer broke off.");
      if (event.usage) this.usage = event.usage;
      const delta = event.choices?.[0]?.delta ?? {};
      const thought = delta.reasoning_content ?? delta.reasoning ?? "";
      if (!delta.content && !thought) continue;
      this.firstTokenS ??= (performance.now() - started) / 1000;
      this.text += delta.content ?? "";
      this.thoughts += thought;
      this.#paintSoon();
    }
    this.totalS = (performance.now() - started) / 1000;
  }

  #paintSoon() {
    if (this.painting) return;
    this.painting = true;
    requestAnimationFrame(() => {
      this.painting = false;
      this.#showBody();
    });
  }

  #showBody() {
    if (this.thoughts) {
      this.thinking ??= el("details", { class: "thoughts" }, el("summary", {}, "Thoughts"), el("div"));
      this.thinking.lastChild.textContent = this.thoughts;
      if (!this.thinking.isConnected) this.body.before(this.thinking);
    }
    if (!this.failed || this.text) this.body.replaceChildren(render(this.text));
    if (this.failed) {
      this.body.append(el("p", { class: "failed", role: "alert" }, this.failure));
    } else if (!this.text && !this.body.classList.contains("waiting")) {
      this.body.append(el("p", { class: "soft" }, this.stopped ? "Stopped." : "The answer is empty."));
    }
  }

  #fail(error) {
    if (error.name === "AbortError") {
      this.stopped = true;
      return;
    }
    this.failed = true;
    const hint = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    this.failure = `${error.message}${hint}`;
    this.status = error.status;
    if (this.tier === null) this.who.replaceChildren(el("span", { class: "failed" }, "No answer"));
  }

  #showDecision(headers) {
    this.requestId = headers.get("x-request-id");
    this.tier = headers.get("x-route-tier");
    this.reason = headers.get("x-route-reason");
    this.score = headers.get("x-route-score") && Number(headers.get("x-route-score"));
    this.escalated = headers.get("x-route-escalated");
    this.confidence = headers.get("x-route-confidence") && Number(headers.get("x-route-confidence"));
    this.draftUsage = readDraftTokens(headers.get("x-route-draft-tokens"));
    this.node.className = `answer ${tierClass(this.names, this.tier)}`;
    this.who.replaceChildren(
      el("span", { class: "badge" }, this.tier),
      el("span", { class: "mono soft" }, headers.get("x-route-model")),
      el("span", { class: "soft", "data-reason": this.reason }, reason(this.reason)),
    );
  }

  async #showFacts() {
    if (this.tier === null) return;
    const route = await this.route;
    const parts = [this.#cascade(), route && this.#scale(route), this.#figures()];
    this.details.replaceChildren(...parts.filter(Boolean));
    this.details.hidden = false;
  }

  // The score on its way from 0 to 1, against the threshold.
  #scale(route) {
    const at = route.score ?? this.score;
    const limit = route.threshold ?? route.otherwise?.threshold;
    if (at === null || at === undefined || limit === null || limit === undefined) return null;
    const [low, high] = [this.names[0], this.names[this.names.length - 1]];
    const x = (value) => `${Math.min(Math.max(value, 0), 1) * 100}%`;
    const picture = svg(
      "svg",
      { role: "img", "aria-label": `Score ${score(at)}, threshold ${score(limit)}` },
      svg("rect", { class: "rail", x: 0, y: 8, width: "100%", height: 6, rx: 3 }),
      svg("rect", { class: "below", x: 0, y: 8, width: x(limit), height: 6, rx: 3 }),
      svg("rect", { class: "above", x: x(limit), y: 8, width: x(1 - limit), height: 6, rx: 3 }),
      svg("line", { class: "tick", x1: x(limit), x2: x(limit), y1: 3, y2: 19 }),
      svg("circle", { class: "dot", cx: x(at), cy: 11, r: 6 }),
    );
    const colours = { "--tier-low": this.#colour(low), "--tier-high": this.#colour(high) };
    const side = at >= limit ? high : low;
    const words = this.reason === "model"
      ? `score ${score(at)}, threshold ${score(limit)}; Auto goes to ${side}`
      : `score ${score(at)}, threshold ${score(limit)}`;
    return styled(
      el("div", { class: "scale" }, el("span", { class: "soft" }, "Complexity"), picture, el("span", { class: "words soft" }, words)),
      colours,
    );
  }

  #colour(name) {
    return `var(--tier-${Math.min(Math.max(this.names.indexOf(name), 0), 3)})`;
  }

  #cascade() {
    if (this.escalated === null) return null;
    const weakest = this.names[0];
    const sure = this.confidence === null ? "no confidence" : `P(right) ${score(this.confidence)}`;
    const draft = el(
      "li",
      { class: tierClass(this.names, weakest) },
      el("span", { class: `badge${this.escalated === "true" ? " left" : ""}` }, weakest),
      ` drafted, ${sure}`,
    );
    const end = this.escalated === "true"
      ? el("li", { class: tierClass(this.names, this.tier) }, el("span", { class: "badge" }, this.tier), " took over")
      : el("li", {}, "the draft became the answer");
    return el("ol", { class: "cascade", "aria-label": "Cascade" }, draft, end);
  }

  #figures() {
    const tokens = this.usage?.completion_tokens;
    const writing = this.totalS - this.firstTokenS;
    // A short answer, or a draft that was held back, comes at once: that says nothing of the speed.
    const speed = tokens > 1 && writing >= WRITING_S_MIN ? (tokens - 1) / writing : null;
    const rows = [
      ["First token", seconds(this.firstTokenS)],
      ["Tokens/s", rate(speed)],
      ["Tokens", this.usage ? `${whole(this.usage.prompt_tokens)} in, ${whole(tokens)} out` : "–"],
      ...this.#price(),
    ];
    const list = rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
    return el("dl", { class: "figures" }, ...list);
  }

  #price() {
    const { currency, tiers } = this.facts;
    if (currency === null || !this.usage) return [];
    const find = (name) => tiers.find((tier) => tier.name === name)?.price;
    const own = cost(find(this.tier), this.usage);
    if (own === null) return [];
    const draft = this.draftUsage ? cost(find(this.names[0]), this.draftUsage) ?? 0 : 0;
    this.cost = own + draft;
    this.strongCost = cost(find(this.names[this.names.length - 1]), this.usage);
    const price = draft ? `${nanos(this.cost, currency)} with the draft` : nanos(this.cost, currency);
    const rows = [["Price", price]];
    if (this.strongCost !== null && this.names.length > 1) {
      const strong = this.names[this.names.length - 1];
      rows.push([`All ${strong}`, el("span", {}, nanos(this.strongCost, currency), ...this.#saving())]);
    }
    return rows;
  }

  #saving() {
    if (!this.strongCost || this.cost === this.strongCost) return [];
    const change = 1 - this.cost / this.strongCost;
    if (change < 0) return [` (${percent(-change)} more spent)`];
    return [" ", el("span", { class: "saving" }, `(${percent(change)} saved)`)];
  }
}
