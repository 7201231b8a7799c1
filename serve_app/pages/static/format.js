// Numbers as people read them. The pages are in English, so their numbers are too.

const NANOS = 1e9;
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const ONE = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export const DASH = "–";

export function whole(value) {
  return value === null || value === undefined ? DASH : WHOLE.format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return DASH;
  return value < 100 ? ONE.format(value) : WHOLE.format(value);
}

export function seconds(value) {
  if (value === null || value === undefined) return DASH;
  if (value < 1) return `${WHOLE.format(value * 1000)} ms`;
  return value < 100 ? `${ONE.format(value)} s` : `${WHOLE.format(value)} s`;
}

export function percent(ratio, digits = 0) {
  if (ratio === null || ratio === undefined) return DASH;
  return `${(ratio * 100).toFixed(digits)} %`;
}

export function score(value) {
  return value === null || value === undefined ? DASH : value.toFixed(2);
}

export function money(units, currency) {
  if (units === null || units === undefined) return DASH;
  const style = { style: "currency", currency, currencyDisplay: "narrowSymbol" };
  const small = Math.abs(units) < 0.01;
  const digits = small
    ? { maximumSignificantDigits: 3 }
    : { minimumFractionDigits: 2, maximumFractionDigits: Math.abs(units) < 1 ? 4 : 2 };
  return new Intl.NumberFormat("en", { ...style, ...digits }).format(units);
}

export function nanos(value, currency) {
  return money(value / NANOS, currency);
}

export function age(s) {
  if (s < 120) return `${WHOLE.format(Math.max(s, 0))} s`;
  if (s < 7200) return `${WHOLE.format(s / 60)} min`;
  return s < 172800 ? `${WHOLE.format(s / 3600)} h` : `${WHOLE.format(s / 86400)} d`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

const REASONS = {
  simple: "simple: the score is below the threshold",
  complex: "complex: the score reaches the threshold",
  model: "the request names the model",
  header: "the request names the tier",
  prompt_too_long: "the prompt is long",
  only_tier: "no other tier can do this task",
  policy: "the config sends every call here",
  no_generation: "no text is generated",
  strong_busy: "the strongest tier is busy",
  strong_idle: "the strongest tier is idle",
  warm: "more of the conversation is cached there",
  quality: "the best answer that the budget pays for",
  cost: "the cheapest that keeps the floor of quality",
  weighted: "the best sum of quality, money and time",
  never_below: "a limit allows no weaker tier",
  never_above: "a limit allows no stronger tier",
  fallback: "the chosen tier could not answer",
  draft: "a draft begins the cascade",
  confident: "the draft is sure enough",
  escalated: "the draft was unsure, so the strongest tier took over",
  draft_failed: "the draft failed",
};

export function reason(code) {
  return REASONS[code] ?? code ?? DASH;
}
