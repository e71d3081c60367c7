// What both kinds of page need: elements without markup (names stay text), numbers, the theme.
"use strict";

const byId = (id) => document.getElementById(id);

// make("td", {class: "number"}, "12") gives an element; whatever is put inside is text, never markup.
function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside.map((part) => (part instanceof Node ? part : String(part))));
  return element;
}

const UNITS = { ml: "ml", mm: "mm", mm2: "mm²", cm2: "cm²", hu: "HU", percent: "%" };

// "axial_diameter_mm" is titled "axial diameter", in mm.
function heading(key) {
  const words = key.split("_");
  const unit = words.length > 1 ? UNITS[words.at(-1)] : undefined;
  return { title: (unit ? words.slice(0, -1) : words).join(" "), unit: unit ?? "" };
}

// As the report has it: no rounding here, so that a page never disagrees with a table.
function shown(value, unit = "") {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map((one) => shown(one)).join(", ");
  if (typeof value === "object") return Object.entries(value).map(([key, one]) => `${key}: ${shown(one)}`).join(", ");
  return unit ? `${value} ${unit}` : String(value);
}

(function theme() {
  const root = document.documentElement;
  const memory = { get: () => null, set: () => {} };
  try { // a browser may forbid pages from disk to remember anything
    const store = window.localStorage;
    memory.get = () => store.getItem("kits-theme");
    memory.set = (value) => store.setItem("kits-theme", value);
  } catch { /* then each page begins as the system does */ }
  const wanted = memory.get();
  if (wanted === "light" || wanted === "dark") root.dataset.theme = wanted;
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    memory.set(root.dataset.theme);
  });
})();
