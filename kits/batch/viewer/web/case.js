// A case's page: NiiVue draws the slices on one canvas and the surfaces on another; the rest is buttons and keys.
"use strict";

const { Niivue, NVImage, NVMesh, SLICE_TYPE, DRAG_MODE, SHOW_RENDER } = niivue;
const WINDOWS = [["Soft tissue", -160, 240], ["Kidney", -20, 260], ["Fat, sinus", -200, 120], ["Wide", -250, 515]];
const LAYOUTS = [["All", "g"], ["Axial", "a"], ["Coronal", "c"], ["Sagittal", "s"], ["3-D", "d"]];
const state = { visible: new Set(CASE.classes.map(({ label }) => label)), opacity: 0.4, outline: false, layout: "All", at: -1 };
let slices;
let solid;
const meshes = [];

// -- pictures -------------------------------------------------------------------------------------------------------

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64).buffer; // where the browser has it
  const letters = atob(base64);
  const result = new Uint8Array(letters.length);
  for (let index = 0; index < letters.length; index++) result[index] = letters.charCodeAt(index);
  return result.buffer;
}

function colours() {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (const { label, name, colour } of CASE.classes) {
    ["R", "G", "B"].forEach((channel, index) => table[channel].push(colour[index]));
    table.A.push(state.visible.has(label) ? 255 : 0);
    table.I.push(label);
    table.labels.push(name);
  }
  return table;
}

async function open() {
  const common = { backColor: [0, 0, 0, 1], loadingText: "", dragAndDropEnabled: false, logLevel: "error", isColorbar: false,
    viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", showLegend: false };
  slices = new Niivue({ ...common, isRadiologicalConvention: true, sagittalNoseLeft: true, crosshairWidth: 0.6,
    crosshairWidthUnit: "mm", crosshairColor: [1, 1, 1, 0.6], crosshairGap: 6, fontColor: [0.75, 0.8, 0.86, 1],
    multiplanarShowRender: SHOW_RENDER.NEVER, dragMode: DRAG_MODE.windowing, tileMargin: 4, fontMinPx: 12 });
  solid = new Niivue({ ...common, sliceType: SLICE_TYPE.RENDER, show3Dcrosshair: false, isOrientCube: true, meshXRay: 0.05 });
  arrange();
  await slices.attachToCanvas(byId("slices"));
  const ct = await NVImage.new(bytes(CASE.ct), "ct.nii.gz", "gray", 1, null, WINDOWS[0][1], WINDOWS[0][2], true);
  const labels = await NVImage.new(bytes(CASE.labels), "labels.nii.gz", "gray", state.opacity, null, 0, 255, true);
  slices.addVolume(ct);
  labels.setColormapLabel(colours());
  slices.addVolume(labels);
  slices.onLocationChange = readout;
  arrange();
  await solid.attachToCanvas(byId("solid"));
  // Opaque ones first: a translucent one hides what is drawn after it.
  const inside = [...CASE.surfaces].sort((a, b) => (a.label === KIDNEY) - (b.label === KIDNEY));
  for (const { label, name, mz3 } of inside) {
    const { colour } = CASE.classes.find((one) => one.label === label);
    const mesh = await NVMesh.readMesh(bytes(mz3), `${name}.mz3`, solid.gl, label === KIDNEY ? 0.45 : 1,
      new Uint8Array([...(label === KIDNEY ? colour.map((one) => Math.round(0.75 * one + 0.25 * 255)) : colour), 255]), true);
    solid.addMesh(mesh);
    meshes.push({ label, name, mesh });
  }
  solid.setRenderAzimuthElevation(180, 12); // as the surgeon stands before the patient
  solid.setScale(0.82); // all of it, whichever way it is turned
  byId("loading").hidden = true;
  if (CASE.lesions.length) jump(0);
  else go(CASE.start_mm);
  document.documentElement.dataset.ready = "yes"; // for who waits for it
}

// The slices in scale with one another, the surfaces in the corner that they leave.
function arrange() {
  const [x, y, z] = CASE.shown.size.map((count, axis) => count * CASE.shown.spacing_mm[axis]);
  const left = Math.min(Math.max(x / (x + y), 0.5), 0.64);
  const top = Math.min(Math.max(y / (y + z), 0.42), 0.58);
  const { AXIAL, CORONAL, SAGITTAL } = SLICE_TYPE;
  const layouts = {
    All: [{ sliceType: AXIAL, position: [0, 0, left, top] }, { sliceType: CORONAL, position: [0, top, left, 1 - top] },
      { sliceType: SAGITTAL, position: [left, top, 1 - left, 1 - top] }],
    Axial: [{ sliceType: AXIAL, position: [0, 0, 1, 1] }],
    Coronal: [{ sliceType: CORONAL, position: [0, 0, 1, 1] }],
    Sagittal: [{ sliceType: SAGITTAL, position: [0, 0, 1, 1] }],
  };
  const only = state.layout === "3-D";
  place(byId("slices-pane"), 0, 0, 1, 1);
  byId("slices-pane").hidden = only;
  byId("solid-pane").hidden = !(only || state.layout === "All");
  if (only) place(byId("solid-pane"), 0, 0, 1, 1);
  else place(byId("solid-pane"), left, 0, 1 - left, top);
  if (!only && slices.volumes.length) slices.setCustomLayout(layouts[state.layout]);
  for (const view of [slices, solid]) if (view.canvas && !view.canvas.closest("[hidden]")) view.resizeListener();
}

function place(element, left, top, width, height) {
  const percent = (share) => `${100 * share}%`;
  Object.assign(element.style, { left: percent(left), top: percent(top), width: percent(width), height: percent(height) });
}

function readout(location) {
  const [ct, label] = location.values ?? [];
  if (!ct) return;
  const [right, anterior, superior] = location.mm;
  const name = CASE.classes.find((one) => one.label === Math.round(label?.value ?? 0))?.name ?? "";
  const at = `${Math.abs(right).toFixed(0)} ${right < 0 ? "L" : "R"} · ${Math.abs(anterior).toFixed(0)} `
    + `${anterior < 0 ? "P" : "A"} · ${Math.abs(superior).toFixed(0)} ${superior < 0 ? "I" : "S"} mm`;
  byId("readout").replaceChildren(make("span", {}, make("b", {}, `${Math.round(ct.value)} HU`)), make("span", {}, name),
    make("span", {}, at));
}

// -- what can be done -----------------------------------------------------------------------------------------------

function go(place) {
  slices.scene.crosshairPos = slices.mm2frac(place);
  slices.drawScene();
  slices.createOnLocationChange();
}

function jump(index) {
  const row = CASE.lesions[index];
  if (!row) return;
  state.at = index;
  go(row.place_mm);
  document.querySelectorAll(".lesion").forEach((one, at) => one.setAttribute("aria-current", at === index));
  document.querySelectorAll(".lesion")[index].scrollIntoView({ block: "nearest" });
}

function setWindow(index) {
  [slices.volumes[0].cal_min, slices.volumes[0].cal_max] = WINDOWS[index].slice(1);
  slices.updateGLVolume();
  check("windows", index);
}

function setOpacity(opacity) {
  state.opacity = Math.min(Math.max(opacity, 0), 1);
  byId("opacity").value = 100 * state.opacity;
  slices.setOpacity(1, state.opacity);
}

function setOutline(outline) {
  state.outline = outline;
  byId("outline").setAttribute("aria-pressed", outline);
  slices.setAtlasOutline(outline ? 1 : 0);
}

function toggle(label) {
  if (!state.visible.delete(label)) state.visible.add(label);
  const visible = state.visible.has(label);
  document.querySelector(`#classes [data-label="${label}"]`).setAttribute("aria-pressed", visible);
  slices.volumes[1].setColormapLabel(colours());
  slices.updateGLVolume();
  for (const one of meshes) if (one.label === label) solid.setMeshProperty(one.mesh.id, "visible", visible);
}

function setLayout(name) {
  state.layout = name;
  check("layouts", LAYOUTS.findIndex(([one]) => one === name));
  arrange();
}

function check(group, index) {
  [...byId(group).children].forEach((one, at) => one.setAttribute("aria-checked", at === index));
}

function move(x, y, z) {
  slices.moveCrosshairInVox(x, y, z);
}

function buttons() {
  WINDOWS.forEach(([name, low, high], index) => {
    const title = `${low} to ${high} HU (${index + 1})`;
    const button = make("button", { type: "button", role: "radio", "aria-checked": index === 0, title }, name);
    button.addEventListener("click", () => setWindow(index));
    byId("windows").append(button);
  });
  const found = new Set(CASE.surfaces.map(({ label }) => label));
  for (const { label, name, colour } of CASE.classes.filter((one) => found.has(one.label))) {
    const button = make("button", { type: "button", "aria-pressed": true, "data-label": label }, swatch(colour), name);
    button.addEventListener("click", () => toggle(label));
    byId("classes").append(button);
  }
  LAYOUTS.forEach(([name, key], index) => {
    const button = make("button", { type: "button", role: "radio", "aria-checked": index === 0, title: `(${key})` }, name);
    button.addEventListener("click", () => setLayout(name));
    byId("layouts").append(button);
  });
  byId("opacity").addEventListener("input", (event) => setOpacity(event.target.value / 100));
  byId("outline").addEventListener("click", () => setOutline(!state.outline));
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("help-close").addEventListener("click", () => byId("help").close());
  window.addEventListener("resize", arrange);
}

const KEYS = [
  ["n / p", "next, previous lesion", { n: () => jump((state.at + 1) % CASE.lesions.length),
    p: () => jump((state.at - 1 + CASE.lesions.length) % CASE.lesions.length) }],
  ["↑ ↓", "a slice up, down", { ArrowUp: () => move(0, 0, 1), ArrowDown: () => move(0, 0, -1) }],
  ["← →", "a sagittal slice", { ArrowLeft: () => move(1, 0, 0), ArrowRight: () => move(-1, 0, 0) }],
  ["PgUp PgDn", "a coronal slice", { PageUp: () => move(0, 1, 0), PageDown: () => move(0, -1, 0) }],
  ["1 – 4", "window: soft tissue, kidney, fat, wide", Object.fromEntries(WINDOWS.map((_, at) => [at + 1, () => setWindow(at)]))],
  ["m", "masks off and on", { m: () => setOpacity(state.opacity > 0 ? 0 : 0.4) }],
  ["[ ]", "masks fainter, stronger", { "[": () => setOpacity(state.opacity - 0.1), "]": () => setOpacity(state.opacity + 0.1) }],
  ["o", "outlines only", { o: () => setOutline(!state.outline) }],
  ["k t y", "kidney, tumour, cyst off and on", { k: () => press(1), t: () => press(2), y: () => press(3) }],
  ["g a c s d", "all; axial, coronal, sagittal, 3-D alone",
    Object.fromEntries(LAYOUTS.map(([name, key]) => [key, () => setLayout(name)]))],
  ["?", "this list", { "?": () => byId("help").showModal() }],
  ["Mouse", "click: go there; wheel: slices; right button, dragged: window; in 3-D: turn", {}],
];

function press(label) {
  document.querySelector(`#classes [data-label="${label}"]`)?.click();
}

function keys() {
  for (const [names, text] of KEYS) byId("keys").append(make("dt", {}, names), make("dd", {}, text));
  const actions = Object.assign({}, ...KEYS.map(([, , one]) => one));
  // Before NiiVue's own keys, which work only while the pointer is over its canvas.
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || event.target.matches("input")) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }, true);
}

lists();
buttons();
open().then(keys).catch((error) => {
  byId("loading").textContent = `The pictures cannot be drawn here (${error.message}); the numbers beside are complete.`;
});
