// The way to the service: its address, the reader's key, errors, and streams of events.

import { el, find } from "./dom.js";

const KEY = "serve_app.key";

// This file is at <root>/pages/<digest>/service.js, wherever the service is mounted.
const ROOT = new URL("../../", import.meta.url);

export function address(path) {
  return new URL(path, ROOT);
}

export class ServiceError extends Error {
  constructor(status, message, code, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

// The key is sent by scripts only, as a header. It stays in this tab, and ends with it.
export async function call(path, { headers = {}, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  const proof = key === null ? {} : { authorization: `Bearer ${key}` };
  const response = await fetch(address(path), {
    ...options,
    headers: { ...headers, ...proof },
    credentials: "same-origin",
    redirect: "error",
    cache: "no-store",
  });
  if (!response.ok) throw await readError(response);
  return response;
}

async function readError(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy in front may answer with something else than JSON.
  }
  const message = error.message ?? `The service answered with status ${response.status}.`;
  return new ServiceError(response.status, message, error.code, response.headers.get("retry-after"));
}

export async function post(path, document, options = {}) {
  const headers = { "content-type": "application/json", ...options.headers };
  return call(path, { ...options, method: "POST", headers, body: JSON.stringify(document) });
}

// The JSON of each event of a stream; [DONE] ends OpenAI's streams.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = readData(part);
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function readData(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}

let asking = null;

// Asks the reader for a key until the service takes one; several callers share one dialog.
export function askForKey(why) {
  asking ??= showDialog(why).finally(() => (asking = null));
  return asking;
}

function showDialog(why) {
  return new Promise((resolve) => {
    const input = el("input", {
      id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true,
    });
    const form = el(
      "form",
      {},
      el("h2", { id: "key-title" }, "This service asks for a key"),
      el("p", { class: "soft" }, why),
      el("label", { for: "key" }, "API key or token"),
      input,
      el(
        "p",
        { class: "soft" },
        "The key stays in this tab and is forgotten when the tab closes.",
      ),
      el("div", { class: "row" }, el("button", { class: "main", type: "submit" }, "Use this key")),
    );
    const dialog = el("dialog", { "aria-labelledby": "key-title" }, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, input.value.trim());
      dialog.close();
      dialog.remove();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}

// What the service says of itself and of the reader; asks for a key where one is needed.
export async function readFacts() {
  for (;;) {
    try {
      return await (await call("playground/facts")).json();
    } catch (error) {
      if (error.status !== 401) throw error;
      const wrong = hasKey();
      forgetKey();
      await askForKey(wrong ? "That key is not valid. Try another one." : "Type in your key.");
    }
  }
}

// The part of the bar that depends on the reader: who asks, links to pages that exist.
export function showReader(facts) {
  find("to-dashboard")?.toggleAttribute("hidden", !facts.dashboard);
  find("to-playground")?.toggleAttribute("hidden", !facts.playground);
  const reader = find("reader");
  if (facts.caller === null) return;
  const name = facts.caller.user ?? facts.caller.tenant;
  const leave = el("button", { class: "plain", type: "button" }, "Forget the key");
  leave.addEventListener("click", () => {
    forgetKey();
    location.reload();
  });
  reader.replaceChildren(el("span", { class: "soft" }, name), leave);
}
