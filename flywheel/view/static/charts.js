"use strict";
// Elements and charts. Text only ever becomes a text node or an attribute's value, never markup: it is the policy's.

const SVG = "http://www.w3.org/2000/svg";

// Control characters, and those that turn the direction of what follows, are shown as what they are: something that is not text.
function clean(text) { return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd").toWellFormed(); }

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(4)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(clean(String(child))));
  }
  return node;
}
function el(tag, attributes, ...children) { return put(document.createElement(tag), attributes, children); }
function svg(tag, attributes, ...children) { return put(document.createElementNS(SVG, tag), attributes, children); }

function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 0.01 || size === 0 ? String(+value.toPrecision(3)) : value.toExponential(1);
}

function ticks(low, high, count) {
  const span = high - low || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(+at.toPrecision(12));
  return found;
}

// One chart of one or more series ({name, points: [[x, y], …]}); a value under the pointer or the arrow keys is read out below it.
function lineChart(title, series, options = {}) {
  const W = 460, H = options.height || 190, L = 46, R = 10, T = 10, B = 24;
  const points = series.flatMap((s) => s.points);
  const box = el("figure", { class: "chart", tabindex: "0", "aria-label": title });
  box.append(el("figcaption", {}, el("span", { class: "chart-title" }, title)));
  if (!points.length) { box.append(el("p", { class: "dim" }, "nothing yet")); return box; }
  let [x0, x1] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  let [y0, y1] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  if (options.unit) { y0 = Math.min(0, y0); y1 = Math.max(1, y1); }
  if (x0 === x1) { x0 -= 0.5; x1 += 0.5; }
  if (y0 === y1) { const pad = Math.abs(y0) * 0.1; y0 -= pad; y1 += pad || 1; }
  const X = (x) => L + ((x - x0) / (x1 - x0)) * (W - L - R);
  const Y = (y) => H - B - ((y - y0) / (y1 - y0)) * (H - T - B);
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-hidden": "true" });
  for (const y of ticks(y0, y1, 4)) {
    drawing.append(svg("line", { class: "grid", x1: L, x2: W - R, y1: Y(y), y2: Y(y) }));
    drawing.append(svg("text", { class: "tick", x: L - 6, y: Y(y) + 3, "text-anchor": "end" }, number(y)));
  }
  for (const x of ticks(x0, x1, 5).filter(Number.isInteger)) {
    drawing.append(svg("text", { class: "tick", x: X(x), y: H - 7, "text-anchor": "middle" }, x));
  }
  series.forEach((s, i) => {
    const path = s.points.map((p, at) => `${at ? "L" : "M"}${X(p[0]).toFixed(1)},${Y(p[1]).toFixed(1)}`).join("");
    drawing.append(svg("path", { class: `line c${i % 8}`, d: path }));
    if (s.points.length < 12) for (const p of s.points) drawing.append(svg("circle", { class: `dot c${i % 8}`, cx: X(p[0]), cy: Y(p[1]), r: 2.6 }));
  });
  const cursor = svg("line", { class: "cursor", y1: T, y2: H - B, x1: -9, x2: -9 });
  drawing.append(cursor);
  const said = el("div", { class: "legend" });
  const steps = [...new Set(points.map((p) => p[0]))].sort((a, b) => a - b);
  let at = steps.length - 1;
  function read(show) {
    const step = steps[at];
    cursor.setAttribute("x1", show ? X(step) : -9); cursor.setAttribute("x2", show ? X(step) : -9);
    said.replaceChildren(
      el("span", { class: "dim" }, `step ${step}`),
      ...series.map((s, i) => {
        const point = s.points.find((p) => p[0] === step) || (show ? null : s.points[s.points.length - 1]);
        return el("span", {}, el("i", { class: `swatch c${i % 8}` }), series.length > 1 ? `${s.name} ` : "", el("b", {}, number(point ? point[1] : null)));
      }),
    );
  }
  read(false);
  drawing.addEventListener("pointermove", (event) => {
    const frame = drawing.getBoundingClientRect();
    const x = x0 + (((event.clientX - frame.left) / frame.width) * W - L) / (W - L - R) * (x1 - x0);
    at = steps.reduce((best, s, i) => (Math.abs(s - x) < Math.abs(steps[best] - x) ? i : best), 0);
    read(true);
  });
  drawing.addEventListener("pointerleave", () => { at = steps.length - 1; read(false); });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault(); event.stopPropagation();
    at = Math.min(steps.length - 1, Math.max(0, at + move));
    read(true);
  });
  box.append(drawing, said);
  return box;
}

// A horizontal bar of shares: [[name, count, class], …].
function shareBar(parts) {
  const total = parts.reduce((sum, p) => sum + p[1], 0) || 1;
  const bar = svg("svg", { class: "sharebar", viewBox: "0 0 1000 22", preserveAspectRatio: "none", "aria-hidden": "true" });
  let x = 0;
  for (const [, count, kind] of parts) {
    const width = (count / total) * 1000;
    bar.append(svg("rect", { class: `fill ${kind}`, x, y: 0, width: Math.max(0, width - 2), height: 22 }));
    x += width;
  }
  const legend = el("div", { class: "legend" }, parts.map(([name, count, kind]) =>
    el("span", {}, el("i", { class: `swatch ${kind}` }), `${name.replace("_", " ")} `, el("b", {}, `${((100 * count) / total).toFixed(1)} %`))));
  return el("div", {}, bar, legend);
}

// Rows of cells over steps, a colour a value in [0, 1]: [{name, points: [[step, value], …]}, …].
function heatMap(rows, label) {
  const steps = [...new Set(rows.flatMap((r) => r.points.map((p) => p[0])))].sort((a, b) => a - b);
  const size = Math.max(3, Math.min(18, Math.floor(760 / Math.max(1, steps.length))));
  const W = 200 + steps.length * size + 10, H = rows.length * 20 + 26;
  const drawing = svg("svg", { class: "heat", viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": label });
  rows.forEach((row, i) => {
    drawing.append(svg("text", { class: "tick", x: 192, y: i * 20 + 14, "text-anchor": "end" }, row.name));
    for (const [step, value] of row.points) {
      const cell = svg("rect", { class: `h${Math.min(10, Math.max(0, Math.round(value * 10)))}`, x: 200 + steps.indexOf(step) * size, y: i * 20, width: size - 0.5, height: 19 });
      cell.append(svg("title", {}, `${row.name}, step ${step}: ${number(value)}`));
      drawing.append(cell);
    }
  });
  steps.forEach((step, i) => {
    if (i % Math.ceil(40 / size) === 0) drawing.append(svg("text", { class: "tick", x: 200 + i * size, y: rows.length * 20 + 16 }, step));
  });
  return el("div", { class: "scroll" }, drawing);
}
