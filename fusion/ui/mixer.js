// The mixer: sliders whose weights always sum to 1, with the loss and a distance to the target following the drag, and a map of three models.
// It draws; its arithmetic is mixer_weights.js, which stands before it where Gradio runs both as `js_on_load`.

const MARKS = ["●", "■", "▲", "◆", "★", "⬟", "▼", "✚"];

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
  function release(why) { held = false; sent += 1; if (parts.recolour) parts.recolour(); trigger("release", { weights: weights.slice(), mode: data.mode, why, count: sent }); }
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
      onclick: () => { locked[i] = !locked[i]; paint(); if (parts.recolour) parts.recolour(); } });
    const only = el("button", { type: "button", class: "mx-small", "aria-label": data.texts.only + " " + data.names[i],
      onclick: () => jump(weights.map((_, j) => (j === i ? 1 : 0)), "only") }, data.texts.only);
    const name = el("div", { class: "mx-name" }, el("i", { style: `color:${data.colours[i]}`, "aria-hidden": true }, MARKS[i % MARKS.length]), data.names[i]);
    const node = el("div", { class: "mx-row", "data-member": data.names[i] }, name, track, number, el("div", { class: "mx-row-buttons" }, lock, only));
    return { node, slider, number, lock };
  }

  function slot(label, unit, help, digits, scale) {
    const value = el("b", {}, "–"), gap = el("span", { class: "mx-gap" }), meter = el("div", {});
    const node = el("div", { class: "mx-read", title: help }, el("span", { class: "mx-label" }, label, el("small", {}, unit)), value, el("div", { class: "mx-meter" }, meter), gap);
    return { node, value, gap, meter, digits, scale: scale || 1 };
  }

  function build() {
    const t = data.texts;
    parts = { rows: data.names.map((_, i) => row(i)) };
    parts.distance = slot(t.distance, t.distanceUnit, t.distanceHelp, 3, spread(mode().distance));
    parts.loss = slot(t.loss, t.lossUnit, t.lossHelp, 5, spread(data.loss));
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
    const form = mode().distance || data.loss;
    const svg = el("svg", { viewBox: "0 0 320 268", class: "mx-map", tabindex: 0, role: "application", "aria-label": data.texts.map });
    const heat = el("g", {});
    parts.dot = el("circle", { r: 8, class: "mx-ring" });
    const marks = el("g", {}), labels = el("g", {});
    svg.append(heat, marks, parts.dot, labels);
    const key = el("p", { class: "mx-key" }), says = el("span", {});
    key.append(el("span", { class: "mx-scale" }), says);
    parts.recolour = () => {  // on release, not on each frame of a drag; a drag on the map itself never changes its slice
      const slice = mapSlice(weights, locked, corners), seen = JSON.stringify([slice, corners]);
      if (seen === svg.dataset.slice) return;
      const start = performance.now();
      heat.replaceChildren(...triangles(form, slice));
      says.textContent = caption(form, slice);
      svg.dataset.slice = seen;
      svg.dataset.drawMs = (performance.now() - start).toFixed(3);
    };
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
    const set = (next, done) => { weights = next; paint(); if (done) release("map"); };
    const clicked = (e, done) => set(placed(weights, locked, corners, point(e)), done);
    const point = (e) => { const box = svg.getBoundingClientRect(); return fromPlane(((e.clientX - box.left) * 320) / box.width, ((e.clientY - box.top) * 268) / box.height); };
    let down = false;
    svg.addEventListener("pointerdown", (e) => { keep(); down = true; svg.setPointerCapture(e.pointerId); clicked(e, false); });
    svg.addEventListener("pointermove", (e) => { if (down) clicked(e, false); });
    svg.addEventListener("pointerup", (e) => { if (down) { down = false; clicked(e, true); } });
    svg.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: [0.02, -0.02, 0], ArrowRight: [-0.02, 0.02, 0], ArrowUp: [-0.01, -0.01, 0.02], ArrowDown: [0.01, 0.01, -0.02] }[e.key];
      if (!step) return;
      e.preventDefault(); keep();
      set(stepped(weights, locked, corners, step), true);
    });
    const pick = data.names.length > 3 && el("div", { class: "mx-pick" }, el("span", {}, data.texts.corners), ...corners.map((_, n) =>
      el("select", { "aria-label": data.texts.corners + " " + (n + 1), onchange: (e) => {
        const next = Number(e.target.value), other = corners.indexOf(next);
        if (other >= 0) corners[other] = corners[n];
        corners[n] = next; build();
      } }, ...data.names.map((name, i) => el("option", { value: i, selected: corners[n] === i }, name)))));
    parts.recolour(); placeDot();
    return el("figure", { class: "mx-figure" }, svg, key, ...(pick ? [pick] : []));
  }

  function caption(form, slice) {
    const t = data.texts;
    if (!form) return t.fitFirst;
    const others = data.names.length === 3 ? "" : slice.empty ? t.mapEmpty : t.mapOthers;
    return [form === data.loss ? t.mapLoss : t.mapDistance, t.mapKey, others].filter(Boolean).join(" ");
  }

  function placeDot() {
    const room = sumOf(weights, corners), hidden = room < 1e-9 || mapSlice(weights, locked, corners).empty;
    parts.dot.style.display = hidden ? "none" : "";
    if (hidden) return;
    const [x, y] = toPlane(corners.map((i) => weights[i] / room));
    parts.dot.setAttribute("cx", x); parts.dot.setAttribute("cy", y);
  }

  // The map: small triangles coloured by the objective, the models off the corners as `slice` says.
  function triangles(form, slice) {
    if (!form) return [el("polygon", { points: CORNERS.map((c) => c.join(",")).join(" "), class: "mx-blank" })];
    const n = 22, full = (t) => { const w = slice.others.slice(); corners.forEach((i, k) => { w[i] = t[k] * slice.room; }); return w; };
    const f = (t) => evaluate(form, full(t));
    const cells = [];
    for (let i = 0; i < n; i++) for (let j = 0; j < n - i; j++) {
      cells.push([[i, j], [i + 1, j], [i, j + 1]]);
      if (i + j < n - 1) cells.push([[i + 1, j], [i, j + 1], [i + 1, j + 1]]);
    }
    const values = cells.map((c) => f([0, 1].map((d) => c.reduce((s, p) => s + p[d], 0) / 3 / n).concat(1 - c.reduce((s, p) => s + p[0] + p[1], 0) / 3 / n)));
    const least = Math.min(...values), span = Math.max(...values) - least || 1, shades = values.map((v) => cividis(1 - (v - least) / span));
    return cells.map((c, k) => el("polygon", { fill: shades[k], stroke: shades[k], "stroke-width": 0.6,
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
    if (!light) build();
    else { paint(); if (!older && parts.recolour) parts.recolour(); }
  }
  watch("value", accept);
  accept();
}

mountMixer(element, props, trigger, watch);  // custom events: 'release', 'mode'
