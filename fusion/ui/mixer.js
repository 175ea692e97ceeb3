// The mixer: sliders whose weights always sum to 1, with the loss and the distance to the population following the drag.
// The first part is pure arithmetic, tested against Python; `mountMixer` at the end draws. Gradio runs this file as `js_on_load`.

const MARKS = ["●", "■", "▲", "◆", "★", "⬟", "▼", "✚"];

// Set weights[index] to value; the other unlocked ones are rescaled in proportion (equally if all are zero); locked ones stay.
function rescale(weights, locked, index, value) {
  const free = weights.map((_, i) => i !== index && !locked[i]);
  const held = weights.reduce((sum, w, i) => sum + (locked[i] && i !== index ? w : 0), 0);
  const room = Math.max(0, 1 - held);
  const count = free.filter(Boolean).length;
  if (locked[index] || count === 0) return weights.slice();
  const moved = Math.min(Math.max(value, 0), room);
  const before = weights.reduce((sum, w, i) => sum + (free[i] ? w : 0), 0);
  const left = room - moved;
  return weights.map((w, i) => {
    if (i === index) return moved;
    if (!free[i]) return w;
    return before > 1e-12 ? (w * left) / before : left / count;
  });
}

// What comes nearest to `wanted` while locked weights stay: the unlocked ones share, in its proportions, what the locked ones leave.
function within(weights, locked, wanted) {
  const free = weights.map((_, i) => !locked[i]);
  const room = Math.max(0, 1 - weights.reduce((sum, w, i) => sum + (free[i] ? 0 : w), 0));
  const sum = wanted.reduce((total, w, i) => total + (free[i] ? w : 0), 0), count = free.filter(Boolean).length;
  return weights.map((w, i) => (!free[i] ? w : sum > 1e-12 ? (wanted[i] * room) / sum : room / count));
}

// Round to `decimals` so that the rounded numbers still sum to 1: the largest remainders are rounded up.
function largestRemainder(weights, decimals = 2) {
  const scale = 10 ** decimals;
  const exact = weights.map((w) => w * scale);
  const floor = exact.map((x) => Math.floor(x + 1e-9));
  const missing = Math.max(0, Math.round(scale * weights.reduce((a, b) => a + b, 0)) - floor.reduce((a, b) => a + b, 0));
  const order = exact.map((x, i) => [floor[i] - x, i]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  for (let n = 0; n < missing; n++) floor[order[n % order.length][1]] += 1;
  return floor.map((n) => n / scale);
}

// w'Qw - 2 c'w + k; c and k may be null and 0.
function quadratic(q, c, k, w) {
  let total = k || 0;
  for (let i = 0; i < w.length; i++) {
    let row = 0;
    for (let j = 0; j < w.length; j++) row += q[i][j] * w[j];
    total += w[i] * (row - (c ? 2 * c[i] : 0));
  }
  return total;
}

// Length of `w A + b`, plus, where a blend was measured, a smooth correction `exp(-|w - at|^2 / 2 length^2) amounts` (see fusion/methods/matching.py).
function mapped(form, w) {
  const u = form.b.slice();
  form.a.forEach((row, i) => row.forEach((x, d) => { u[d] += w[i] * x; }));
  (form.at || []).forEach((point, m) => {
    const k = Math.exp(-point.reduce((s, p, i) => s + (w[i] - p) ** 2, 0) / (2 * form.length ** 2));
    form.amounts[m].forEach((x, d) => { u[d] += k * x; });
  });
  return Math.sqrt(u.reduce((s, x) => s + x * x, 0));
}

// Cividis, eight stops, for magnitudes.
const CIVIDIS = [[0, 34, 78], [35, 62, 108], [77, 87, 109], [110, 112, 115], [145, 139, 118], [181, 168, 106], [219, 200, 82], [254, 232, 56]];
function cividis(x) {
  const at = Math.min(Math.max(x, 0), 1) * (CIVIDIS.length - 1), i = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return "rgb(" + CIVIDIS[i].map((v, c) => Math.round(v + (at - i) * (CIVIDIS[i + 1][c] - v))).join(",") + ")";
}

// Barycentric weights (a, b, c) to the plane and back; the triangle has its corners at A (left), B (right), C (top).
const CORNERS = [[30, 236], [290, 236], [160, 24]];
const toPlane = (t) => [0, 1].map((d) => t[0] * CORNERS[0][d] + t[1] * CORNERS[1][d] + t[2] * CORNERS[2][d]);
function fromPlane(x, y) {
  const [a, b, c] = CORNERS;
  const det = (b[1] - c[1]) * (a[0] - c[0]) + (c[0] - b[0]) * (a[1] - c[1]);
  const u = ((b[1] - c[1]) * (x - c[0]) + (c[0] - b[0]) * (y - c[1])) / det;
  const v = ((c[1] - a[1]) * (x - c[0]) + (a[0] - c[0]) * (y - c[1])) / det;
  const t = [u, v, 1 - u - v].map((w) => Math.max(w, 0));
  const sum = t[0] + t[1] + t[2];
  return t.map((w) => w / sum);
}

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "text", "polygon", "g", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("aria-")) { node.setAttribute(name, String(value)); continue; }
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function mountMixer(element, props, trigger, watch) {
  const root = element.querySelector(".mx");
  let data = null, weights = [], locked = [], undo = [], corners = [0, 1, 2], parts = {};
  let sent = 0, held = false;  // releases so far, and whether a handle is down: an answer to an older release must not move it

  const mode = () => data.modes[data.mode];
  const evaluate = (form, w) => (form.q ? quadratic(form.q, form.c, form.k, w) : mapped(form, w));
  const read = (form, w) => { if (!form) return null; const value = evaluate(form, w); return { value, gap: value - form.best }; };

  function paint() {
    const shown = largestRemainder(weights, 2);
    weights.forEach((w, i) => {
      const row = parts.rows[i];
      row.slider.value = w;
      row.slider.setAttribute("aria-valuetext", shown[i].toFixed(2));
      row.slider.style.setProperty("--at", w);
      row.number.textContent = shown[i].toFixed(2);
      row.slider.disabled = locked[i];
      row.lock.setAttribute("aria-pressed", locked[i]);
      row.lock.textContent = locked[i] ? data.texts.locked : data.texts.lock;
      row.node.classList.toggle("mx-locked", locked[i]);
      parts.bar[i].style.flexGrow = Math.max(w, 0.0001);
      parts.bar[i].querySelector("b").textContent = w >= 0.08 ? shown[i].toFixed(2) : "";
    });
    const missing = data.fitted ? data.texts.unknown : data.texts.fitFirst;
    const without = data.fitted && data.mode === "mix" ? data.texts.needsCalibration : missing;
    fill(parts.distance, read(mode().distance, weights), without);
    fill(parts.loss, read(data.loss, weights), missing);
    parts.undo.disabled = undo.length === 0;
    if (parts.dot) placeDot();
  }

  function fill(slot, read, missing) {
    slot.value.textContent = read ? read.value.toFixed(slot.digits) : "–";
    slot.gap.textContent = read ? data.texts.gap.replace("{gap}", Math.max(read.gap, 0).toFixed(slot.digits)) : missing;
    slot.meter.style.width = read ? Math.min(100, (100 * Math.max(read.gap, 0)) / slot.scale) + "%" : "0";
  }

  function keep() {
    undo.push(weights.slice());
    if (undo.length > 50) undo.shift();
  }
  function release(why) { held = false; sent += 1; trigger("release", { weights: weights.slice(), mode: data.mode, why, count: sent }); }
  function jump(next, why) { keep(); weights = why === "undo" ? next.slice() : within(weights, locked, next); paint(); release(why); }

  function row(i) {
    const [low, high] = mode().interval ? mode().interval[i] : [0, 0];
    const slider = el("input", { type: "range", min: 0, max: 1, step: 0.01, "aria-label": data.names[i], class: "mx-slider" });
    slider.addEventListener("pointerdown", () => { keep(); held = true; });
    slider.addEventListener("pointerup", () => { held = false; });
    slider.addEventListener("keydown", (e) => { if (e.key.startsWith("Arrow") || e.key.startsWith("Page") || e.key === "Home" || e.key === "End") keep(); });
    slider.addEventListener("input", () => {
      const start = performance.now();
      weights = rescale(weights, locked, i, Number(slider.value));
      paint();
      root.dataset.dragMs = (performance.now() - start).toFixed(3);
    });
    slider.addEventListener("change", () => release("slider"));
    const track = el("div", { class: "mx-track", style: `--colour:${data.colours[i]}` }, el("div", { class: "mx-rail" }));
    if (mode().interval) track.append(el("div", { class: "mx-band", title: data.texts.interval, style: `--low:${low};--high:${high}` }));
    if (mode().published) track.append(el("div", { class: "mx-tick", title: data.texts.publishedTick, style: `--at:${mode().published[i]}` }));
    track.append(slider);
    const number = el("output", { class: "mx-number" });
    const lock = el("button", { type: "button", class: "mx-small", "aria-label": data.texts.lock + " " + data.names[i],
      onclick: () => { locked[i] = !locked[i]; paint(); } });
    const only = el("button", { type: "button", class: "mx-small", "aria-label": data.texts.only + " " + data.names[i],
      onclick: () => jump(weights.map((_, j) => (j === i ? 1 : 0)), "only") }, data.texts.only);
    const name = el("div", { class: "mx-name" }, el("i", { style: `color:${data.colours[i]}`, "aria-hidden": true }, MARKS[i % MARKS.length]), data.names[i]);
    const node = el("div", { class: "mx-row", "data-member": data.names[i] }, name, track, number, el("div", { class: "mx-row-buttons" }, lock, only));
    return { node, slider, number, lock };
  }

  function slot(label, help, digits, scale) {
    const value = el("b", {}, "–"), gap = el("span", { class: "mx-gap" }), meter = el("div", {});
    const node = el("div", { class: "mx-read", title: help }, el("span", { class: "mx-label" }, label), value, el("div", { class: "mx-meter" }, meter), gap);
    return { node, value, gap, meter, digits, scale: scale || 1 };
  }

  function build() {
    const t = data.texts;
    parts = { rows: data.names.map((_, i) => row(i)) };
    parts.distance = slot(t.distance, t.distanceHelp, 3, spread(mode().distance));
    parts.loss = slot(t.loss, t.lossHelp, 5, spread(data.loss));
    parts.distance.node.dataset.read = "distance";
    parts.loss.node.dataset.read = "loss";
    parts.undo = el("button", { type: "button", class: "mx-button", onclick: () => { weights = undo.pop(); paint(); release("undo"); } }, t.undo);
    const press = (label, values, why) => values && el("button", { type: "button", class: "mx-button", "data-why": why, onclick: () => jump(values, why) }, label);
    const even = data.names.map(() => 1 / data.names.length);
    const buttons = [press(t.fitted, mode().fitted, "fitted"), press(t.published, mode().published, "published"), press(t.uniform, even, "uniform"), parts.undo];
    const modes = ["mix", "blend"].map((m) => el("button", { type: "button", role: "radio", "aria-checked": m === data.mode, "data-mode": m,
      onclick: () => { if (m !== data.mode) trigger("mode", { mode: m }); } }, el("b", {}, t[m]), el("span", {}, t[m + "Help"])));
    parts.bar = data.names.map((n, i) => el("span", { style: `background:${data.colours[i]}`, title: n }, el("b", {})));
    const open = el("button", { type: "button", class: "mx-open", "aria-expanded": false, onclick: () => {
      open.setAttribute("aria-expanded", root.classList.toggle("mx-sheet")); open.textContent = root.classList.contains("mx-sheet") ? t.close : t.open; } }, t.open);
    const body = el("div", { class: "mx-body" }, el("div", { class: "mx-rows" }, ...parts.rows.map((r) => r.node), el("div", { class: "mx-buttons" }, ...buttons.filter(Boolean))));
    if (data.names.length >= 3) body.append(ternary());
    root.replaceChildren(
      el("div", { class: "mx-modes", role: "radiogroup", "aria-label": t.modes }, ...modes),
      el("div", { class: "mx-reads", "aria-live": "off" }, parts.distance.node, parts.loss.node), body,
      el("div", { class: "mx-sticky" }, el("div", { class: "mx-bar" }, ...parts.bar), open));
    paint();
  }

  // A scale for the gap meters: the worst single member's gap.
  function spread(form) {
    if (!form) return 1;
    return Math.max(...data.names.map((_, i) => evaluate(form, data.names.map((__, j) => (i === j ? 1 : 0))))) - form.best || 1;
  }

  function ternary() {
    const chosen = () => corners.map((i) => weights[i]);
    const form = mode().distance || data.loss;
    const svg = el("svg", { viewBox: "0 0 320 268", class: "mx-map", tabindex: 0, role: "application", "aria-label": data.texts.map });
    const heat = el("g", {});
    parts.dot = el("circle", { r: 8, class: "mx-ring" });
    const marks = el("g", {}), labels = el("g", {});
    svg.append(heat, marks, parts.dot, labels);
    const redraw = () => {
      heat.replaceChildren(...triangles(form));
      const rest = (v) => { const t = corners.map((i) => v[i]); const s = t.reduce((a, b) => a + b, 0); return s > 1e-9 ? t.map((x) => x / s) : null; };
      marks.replaceChildren(...[["fitted", "circle"], ["published", "polygon"]].flatMap(([key, tag]) => {
        const at = mode()[key] && rest(mode()[key]);
        if (!at) return [];
        const [x, y] = toPlane(at), node = tag === "circle" ? el("circle", { cx: x, cy: y, r: 4.5, class: "mx-fit" })
          : el("polygon", { points: `${x},${y - 6} ${x + 6},${y} ${x},${y + 6} ${x - 6},${y}`, class: "mx-pub" });
        node.append(el("title", {}, data.texts[key]));
        return [node];
      }));
      labels.replaceChildren(...corners.map((i, n) => el("text", { x: CORNERS[n][0], y: n === 2 ? 14 : 258, "text-anchor": n === 0 ? "start" : n === 1 ? "end" : "middle",
        dx: n === 0 ? -28 : n === 1 ? 28 : 0 }, MARKS[i % MARKS.length] + " " + data.names[i])));
      placeDot();
    };
    const set = (t, done) => {
      const room = corners.reduce((s, i) => s + weights[i], 0) || 1;
      let next = weights.map((w, i) => (corners.includes(i) ? t[corners.indexOf(i)] * room : w));
      if (next.reduce((a, b) => a + b, 0) > 1.0001) next = next.map((w, i) => (corners.includes(i) ? w : 0));
      weights = within(weights, locked, next);
      paint();
      if (done) release("map");
    };
    const point = (e) => { const box = svg.getBoundingClientRect(); return fromPlane(((e.clientX - box.left) * 320) / box.width, ((e.clientY - box.top) * 268) / box.height); };
    let down = false;
    svg.addEventListener("pointerdown", (e) => { keep(); down = true; svg.setPointerCapture(e.pointerId); set(point(e), false); });
    svg.addEventListener("pointermove", (e) => { if (down) set(point(e), false); });
    svg.addEventListener("pointerup", (e) => { if (down) { down = false; set(point(e), true); } });
    svg.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: [0.02, -0.02, 0], ArrowRight: [-0.02, 0.02, 0], ArrowUp: [-0.01, -0.01, 0.02], ArrowDown: [0.01, 0.01, -0.02] }[e.key];
      if (!step) return;
      e.preventDefault(); keep();
      const room = corners.reduce((s, i) => s + weights[i], 0) || 1;
      const t = chosen().map((w, n) => Math.max(0, w / room + step[n])), s = t.reduce((a, b) => a + b, 0);
      set(t.map((w) => w / s), true);
    });
    const pick = data.names.length > 3 && el("div", { class: "mx-pick" }, el("span", {}, data.texts.corners), ...corners.map((_, n) =>
      el("select", { "aria-label": data.texts.corners + " " + (n + 1), onchange: (e) => {
        const next = Number(e.target.value), other = corners.indexOf(next);
        if (other >= 0) corners[other] = corners[n];
        corners[n] = next; build();
      } }, ...data.names.map((name, i) => el("option", { value: i, selected: corners[n] === i }, name)))));
    const key = el("p", { class: "mx-key" }, el("span", { class: "mx-scale" }), form ? (form === data.loss ? data.texts.mapLoss : data.texts.mapDistance) + " " + data.texts.mapKey : data.texts.fitFirst);
    parts.redraw = redraw; redraw();
    return el("figure", { class: "mx-figure" }, svg, key, ...(pick ? [pick] : []));
  }

  function placeDot() {
    const room = corners.reduce((s, i) => s + weights[i], 0);
    const [x, y] = toPlane(room > 1e-9 ? corners.map((i) => weights[i] / room) : [1 / 3, 1 / 3, 1 / 3]);
    parts.dot.setAttribute("cx", x); parts.dot.setAttribute("cy", y);
  }

  // The map: small triangles coloured by the objective with all mass on the three corners (others zero).
  function triangles(form) {
    if (!form) return [el("polygon", { points: CORNERS.map((c) => c.join(",")).join(" "), class: "mx-blank" })];
    const n = 22, full = (t) => { const w = weights.map(() => 0); corners.forEach((i, k) => { w[i] = t[k]; }); return w; };
    const f = (t) => Math.max(evaluate(form, full(t)) - form.best, 0);
    const cells = [];
    for (let i = 0; i < n; i++) for (let j = 0; j < n - i; j++) {
      cells.push([[i, j], [i + 1, j], [i, j + 1]]);
      if (i + j < n - 1) cells.push([[i + 1, j], [i, j + 1], [i + 1, j + 1]]);
    }
    const values = cells.map((c) => f([0, 1].map((d) => c.reduce((s, p) => s + p[d], 0) / 3 / n).concat(1 - c.reduce((s, p) => s + p[0] + p[1], 0) / 3 / n)));
    const top = Math.max(...values) || 1;
    return cells.map((c, k) => el("polygon", { fill: cividis(1 - values[k] / top), stroke: cividis(1 - values[k] / top), "stroke-width": 0.6,
      points: c.map(([i, j]) => toPlane([i / n, j / n, 1 - (i + j) / n]).map((v) => v.toFixed(1)).join(",")).join(" ") }));
  }

  function accept() {
    const next = props.value;
    if (!next || !next.names || !next.names.length) { root.replaceChildren(); data = null; return; }
    const same = data && data.names.join() === next.names.join();
    if (!same || (next.fitted && !data.fitted)) corners = next.corners.slice();
    if (!same) { locked = next.names.map(() => false); undo = []; }
    else if (data.mode !== next.mode) undo = [];
    const light = same && data.stamp === next.stamp && data.mode === next.mode;
    const older = light && (held || next.count !== sent);
    data = next;
    if (!older) weights = next.weights.slice();
    if (light) paint(); else build();
  }
  watch("value", accept);
  accept();
}

if (typeof module !== "undefined") module.exports = { rescale, within, largestRemainder, quadratic, mapped, fromPlane, toPlane };
else if (typeof element !== "undefined") mountMixer(element, props, trigger, watch);  // custom events: 'release', 'mode'
