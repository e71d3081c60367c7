// What a case's page tells beside its pictures: cards, what to look at first, warnings, lesions, sides.
"use strict";

const CASE = window.KITS_CASE;
const KIDNEY = 1;

function card(title, value, unit) {
  return make("div", { class: "card" },
    make("div", { class: "value", title: `${value} ${unit}` }, value.toFixed(1), make("span", { class: "unit" }, unit)),
    make("div", { class: "title" }, title));
}

function cards() {
  for (const { label, name } of CASE.classes) {
    const key = `${name}_ml`;
    const rows = CASE.sides.filter((row) => typeof row[key] === "number");
    if (label === KIDNEY) for (const row of rows) byId("cards").append(card(`Kidney, ${row.side}`, row[key], "ml"));
    else {
      const total = rows.reduce((sum, row) => sum + row[key], 0);
      if (name === "cyst" && !total) continue; // label maps often have no such label
      byId("cards").append(card(name[0].toUpperCase() + name.slice(1), Math.round(1000 * total) / 1000, "ml"));
    }
  }
}

const HIDDEN = new Set(["name", "kind", "side", "place_mm", "volume_ml"]);

function lesionCard(row, index) {
  const colour = CASE.classes.find(({ name }) => name === row.kind)?.colour ?? [160, 160, 160];
  const button = make("button", { type: "button" }, swatch(colour), make("span", { class: "title" }, row.name[0].toUpperCase() + row.name.slice(1)),
    make("span", { class: "quiet" }, row.side ?? ""), make("span", { class: "volume" }, shown(row.volume_ml, "ml")));
  button.addEventListener("click", () => jump(index));
  const list = make("dl");
  for (const [key, value] of Object.entries(row)) {
    if (HIDDEN.has(key) || value === null) continue;
    const { title, unit } = heading(key);
    list.append(make("div", {}, make("dt", {}, title), make("dd", {}, shown(value, unit))));
  }
  return make("article", { class: "lesion", "data-lesion": row.name }, button, list);
}

function lists() {
  byId("scan").textContent = `${CASE.scan.size.join(" × ")} voxels of ${CASE.scan.spacing_mm.join(" × ")} mm`;
  byId("scan").title = `Shown: ${CASE.shown.size.join(" × ")} voxels of ${CASE.shown.spacing_mm.join(" × ")} mm, in `
    + `steps of ${CASE.shown.step_hu} HU from ${CASE.shown.lowest_hu} HU`;
  if (CASE.confidence !== null) {
    byId("confidence").textContent = `confidence ${CASE.confidence}`;
    byId("confidence").hidden = false;
  }
  cards();
  for (const { text, lesion } of CASE.first) {
    const index = CASE.lesions.findIndex(({ name }) => name === lesion);
    const item = index < 0 ? make("div", { class: "plain" }, text) : make("button", { type: "button" }, text);
    if (index >= 0) item.addEventListener("click", () => jump(index));
    byId("first").append(make("li", {}, item));
  }
  byId("first-section").hidden = !CASE.first.length;
  byId("warnings").append(...CASE.warnings.map((text) => make("li", {}, text)));
  byId("warnings-section").hidden = !CASE.warnings.length;
  byId("lesion-count").textContent = CASE.lesions.length || "";
  byId("lesions").append(...CASE.lesions.map(lesionCard));
  if (!CASE.lesions.length) byId("lesions").append(make("p", { class: "quiet" }, "No tumour was found."));
  byId("sides").append(sidesTable());
}

function sidesTable() {
  const head = make("tr", {}, make("th"), ...CASE.sides.map(({ side }) => make("th", { class: "number" }, side)));
  const body = make("tbody");
  for (const key of new Set(CASE.sides.flatMap(Object.keys))) {
    if (key === "side" || CASE.sides.every((row) => row[key] === null)) continue;
    const { title, unit } = heading(key);
    body.append(make("tr", {}, make("td", {}, title),
      ...CASE.sides.map((row) => make("td", { class: "number" }, shown(row[key], unit)))));
  }
  return make("table", {}, make("thead", {}, head), body);
}

function swatch(colour) {
  const result = make("span", { class: "swatch" });
  result.style.background = `rgb(${colour.join(",")})`;
  return result;
}
