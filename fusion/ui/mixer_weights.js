// The mixer's arithmetic: weights on the simplex, what they cost, and their place on the map. Pure; tests/ui/test_mixer.py runs it in node.
// Gradio runs it together with mixer.js, which draws.

const sumOf = (weights, which) => which.reduce((total, i) => total + weights[i], 0);

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

// ---- the map: a slice of the simplex in which three corners share what they hold, and the other models keep their weights

const EMPTY = 0.005;  // corners that hold less show 0.00: then the map is of all the unlocked weight instead

// `{ others, room, empty }`: the weights off the corners in this slice `(K,)`, what the corners share in it, and whether they take it from the others.
function mapSlice(weights, locked, corners) {
  const off = weights.map((_, i) => i).filter((i) => !corners.includes(i)), loose = off.filter((i) => !locked[i]);
  const free = corners.filter((i) => !locked[i]);
  const empty = free.length > 0 && sumOf(weights, free) < EMPTY && sumOf(weights, loose) > EMPTY;
  const others = weights.map((w, i) => (corners.includes(i) || (empty && !locked[i]) ? 0 : w));
  return { others, room: sumOf(weights, corners) + (empty ? sumOf(weights, loose) : 0), empty };
}

// A click at `t` (barycentric): the unlocked corners share their own room in its proportions. Nothing else moves, unless they hold nothing.
function placed(weights, locked, corners, t) {
  const free = corners.filter((i) => !locked[i]), wanted = free.map((i) => t[corners.indexOf(i)]), total = wanted.reduce((a, b) => a + b, 0);
  if (!free.length || total <= 1e-12) return weights.slice();
  const slice = mapSlice(weights, locked, corners), room = slice.room - sumOf(weights, corners.filter((i) => locked[i]));
  return weights.map((w, i) => (free.includes(i) ? (wanted[free.indexOf(i)] * room) / total : corners.includes(i) ? w : slice.others[i]));
}

// An arrow key: corners with a positive `step` gain it; it comes from those with a negative one, then the third, then the other models.
function stepped(weights, locked, corners, step) {
  const free = corners.filter((i) => !locked[i]), of = (i) => step[corners.indexOf(i)];
  const loose = weights.map((_, i) => i).filter((i) => !locked[i] && !corners.includes(i));
  const gainers = free.filter((i) => of(i) > 0), wanted = gainers.reduce((total, i) => total + of(i), 0);
  const next = weights.slice();
  let got = 0;
  for (const givers of [free.filter((i) => of(i) < 0), free.filter((i) => of(i) === 0), loose]) {
    const held = sumOf(weights, givers), give = Math.min(wanted - got, held);
    if (give <= 0) continue;
    givers.forEach((i) => { next[i] *= 1 - give / held; });
    got += give;
  }
  gainers.forEach((i) => { next[i] += (of(i) * got) / wanted; });
  return next;
}

if (typeof module !== "undefined") {
  module.exports = { rescale, within, largestRemainder, quadratic, mapped, fromPlane, toPlane, mapSlice, placed, stepped };
}
