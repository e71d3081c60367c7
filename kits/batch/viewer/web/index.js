// The index: sort by a click on a heading, filter by name, tumour volume, confidence and warnings.
"use strict";

const FAILED = { page: "", picture: "", sides: [], totals: {}, lesions: null, confidence: null };
const CASES = JSON.parse(byId("data").textContent);
for (const line of CASES) if (line.error) Object.assign(line, FAILED, { warnings: [line.error] });
const side = (line, name, key) => line.sides.find((row) => row.side === name)?.[key] ?? null;
const COLUMNS = [
  { title: "" },
  { title: "Case", value: (line) => line.name, text: true },
  { title: "Kidney, right (ml)", value: (line) => side(line, "right", "kidney_ml") },
  { title: "Kidney, left (ml)", value: (line) => side(line, "left", "kidney_ml") },
  { title: "Tumour (ml)", value: (line) => line.totals.tumour_ml ?? null },
  { title: "Cyst (ml)", value: (line) => line.totals.cyst_ml ?? null },
  { title: "Lesions", value: (line) => line.lesions },
  { title: "Confidence", value: (line) => line.confidence },
  { title: "Warnings", value: (line) => line.warnings.length },
].filter(({ value }) => !value || CASES.some((line) => value(line) !== null)); // a column without a value is none
const order = { title: "Case", descending: false };

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // unknown ones last, either way round
  const difference = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return order.descending ? -difference : difference;
}

function fits(line) {
  const name = byId("text").value.trim().toLowerCase();
  const tumour = byId("tumour").valueAsNumber;
  const confidence = byId("confidence").valueAsNumber;
  return (!name || line.name.toLowerCase().includes(name))
    && (Number.isNaN(tumour) || (line.totals.tumour_ml ?? 0) >= tumour)
    && (Number.isNaN(confidence) || (line.confidence !== null && line.confidence <= confidence))
    && (!byId("warned").checked || line.warnings.length > 0);
}

function row(line) {
  const cells = COLUMNS.map(({ title, value, text }) => {
    if (!value) {
      return make("td", {}, line.picture ? make("img", { src: line.picture, alt: "", loading: "lazy" }) : "");
    }
    if (text) return make("td", {}, line.page ? make("a", { href: line.page }, line.name) : line.name);
    if (title === "Warnings") {
      return make("td", {}, ...line.warnings.map((one) => make("span", { class: "pill warn" }, one)));
    }
    const number = value(line);
    return make("td", { class: "number", title: shown(number) }, title.endsWith("(ml)") ? number?.toFixed(1) ?? "–" : shown(number));
  });
  const result = make("tr", {}, ...cells);
  result.addEventListener("click", (event) => {
    if (line.page && !event.target.closest("a") && !String(getSelection())) location.href = line.page;
  });
  return result;
}

function draw() {
  const { value } = COLUMNS.find((column) => column.title === order.title);
  const lines = CASES.filter(fits).sort((a, b) => compare(value(a), value(b)));
  byId("cases").tBodies[0].replaceChildren(...lines.map(row));
  byId("none").hidden = lines.length > 0;
  byId("count").textContent = lines.length === CASES.length ? CASES.length : `${lines.length} of ${CASES.length}`;
  for (const head of byId("cases").tHead.rows[0].cells) {
    head.removeAttribute("aria-sort");
    if (head.dataset.title === order.title) head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    const mark = head.querySelector("i");
    if (mark) mark.textContent = head.dataset.title === order.title ? (order.descending ? " ↓" : " ↑") : "";
  }
}

const heads = make("tr");
for (const { title, value, text } of COLUMNS) {
  const head = make("th", { scope: "col", "data-title": title, class: value && !text && title !== "Warnings" ? "number" : "" });
  if (value) {
    const button = make("button", { type: "button" }, title, make("i"));
    button.addEventListener("click", () => {
      order.descending = order.title === title ? !order.descending : !text; // numbers: the largest first
      order.title = title;
      draw();
    });
    head.append(button);
  }
  heads.append(head);
}
byId("cases").tHead.append(heads);
byId("filters").addEventListener("input", draw);
byId("filters").addEventListener("reset", () => setTimeout(draw));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== byId("text")) {
    byId("text").focus();
    event.preventDefault();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (document.activeElement.type === "number") return;
    const links = [...document.querySelectorAll("#cases tbody a")];
    const next = links.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    links[Math.max(0, Math.min(next, links.length - 1))]?.focus();
    event.preventDefault();
  }
});
draw();
