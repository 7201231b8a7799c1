// Light or dark: as the system says, until the reader chooses.

import { find } from "./dom.js";

const CHOICE = "serve_app.theme";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function current() {
  return root.dataset.theme ?? (system.matches ? "dark" : "light");
}

function show() {
  const other = current() === "dark" ? "light" : "dark";
  find("theme").textContent = other === "dark" ? "Dark" : "Light";
  find("theme").setAttribute("aria-label", `Switch to ${other} colours`);
}

const chosen = localStorage.getItem(CHOICE);
if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
find("theme").addEventListener("click", () => {
  root.dataset.theme = current() === "dark" ? "light" : "dark";
  localStorage.setItem(CHOICE, root.dataset.theme);
  show();
});
system.addEventListener("change", show);
show();
