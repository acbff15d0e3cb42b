// Recurrent layers for one instruction set: compiled once with AVX512 (16 floats to a vector), once with AVX2 (8), and
// once with AVX512_BF16, whose products take factors of bfloat16 (recurrent_products.h).
//
// Each output number is summed by one thread in one order, whatever the number of threads and wherever a row stands in
// its batch: results repeat bit for bit and do not depend on padding or on the other texts.
//
// A panel is the work of one register tile in width: SLOTS vectors side by side, the gates of the same UNITS hidden
// units, so that a step's activations follow right after its products, in the first cache.
//   LSTM (i f g o), GRU (n_x r z n_h: n's two summands are kept apart, as r scales only the recurrent one),
//   Elman (two vectors of units).
#include "recurrent.h"
#include "recurrent_products.h"
#include "recurrent_shape.h"
#include <cstring>
#include <omp.h>

#if defined(__AVX512BF16__)
#define ISA avx512_bf16
#elif defined(__AVX512F__)
#define ISA avx512
#else
#define ISA avx2
#endif

namespace duplet {
namespace {

// --- steps ------------------------------------------------------------------------------------------------------------
// What a worker does: one direction of the texts part, part + parts, … in sorted order. Texts never meet, so no worker
// waits for another.
struct Part {
  int d;
  I part, parts;
};

struct Walk {  // the texts of a part at one step, and where each one's state before it is
  I n, before;         // texts at this step; of these, the first `before` have a state before it
  I *rows, *previous;  // packed rows of this step and of the one before it (-1: the given first state)
};

Walk walk(const Layer& l, const Part& p, I step, bool given, I* rows, I* previous) {
  const bool forwards = p.d == 0;
  const I texts = l.counts[step], earlier = forwards ? step - 1 : step + 1;
  const bool begins = forwards ? step == 0 : false;
  const I having = given ? texts : begins ? 0 : forwards ? texts : l.counts[step + 1];
  Walk w{0, 0, rows, previous};
  for (I i = p.part; i < texts; i += p.parts, w.n++) {
    rows[w.n] = l.offsets[step] + i;
    const bool inside = forwards ? !begins : i < l.counts[step + 1];
    previous[w.n] = inside ? l.offsets[earlier] + i : -1;
    if (i < having) w.before = w.n + 1;
  }
  return w;
}

void activate(const Layer& l, const Shape& s, I panel, float* g, float* h, float* c, const float* h_before, const float* c_before) {
  if (s.gates == 1) {
    for (int slot = 0; slot < s.slots; slot++) {
      const I unit = panel * s.units + slot * W, n = s.hidden - unit;
      if (n <= 0) return;
      const V v = load(g + slot * W);
      store_some(h + unit, s.cell == TANH ? hyperbolic(v) : (v < 0.f ? V{} : v), n);
    }
    return;
  }
  const I unit = panel * W, n = s.hidden - unit;
  if (s.cell == LSTM) {
    const V i = sigmoid(load(g)), f = sigmoid(load(g + W)), u = hyperbolic(load(g + 2 * W)), o = sigmoid(load(g + 3 * W));
    const V state = c_before ? f * load(c_before + unit) + i * u : i * u;
    store(g, i), store(g + W, f), store(g + 2 * W, u), store(g + 3 * W, o);
    store(c + unit, state);
    store_some(h + unit, o * hyperbolic(state), n);
  } else {
    const V r = sigmoid(load(g + W)), z = sigmoid(load(g + 2 * W)), u = hyperbolic(load(g) + r * load(g + 3 * W));
    store(g, u), store(g + W, r), store(g + 2 * W, z);
    const V old = h_before ? load_some(h_before + unit, n) : V{};
    store_some(h + unit, u + z * (old - u), n);
  }
}

const float* text_row(const float* array, const Layer& l, int d, I place, I width) {
  return array ? array + (d * l.texts + l.order[place]) * width : nullptr;
}

void steps_forward(Layer& l, const Shape& s, const Part& p, const F* packed_h, const float* bias_n) {
  const I room = l.texts / p.parts + 1, D = l.directions, cw = s.panels * s.units;
  float* memory = l.take(room * (14 + cw + narrow_width(s.hidden)));
  I* rows = reinterpret_cast<I*>(memory);
  I* previous = rows + room;
  const float** a = reinterpret_cast<const float**>(previous + room);
  float** c = (float**)(a + room);
  const float** c_old = (const float**)(c + room);
  const F** narrowed = (const F**)(c_old + room);
  float* c_start = memory + room * 14;  // given first c, each as wide as a row of cells
  if (l.c0)
    for (I i = p.part, j = 0; i < l.texts; i += p.parts, j++) {
      memset(c_start + j * cw, 0, sizeof(float) * cw);
      memcpy(c_start + j * cw, text_row(l.c0, l, p.d, i, s.hidden), sizeof(float) * s.hidden);
    }
  for (I t = 0; t < l.longest; t++) {
    const I step = p.d == 0 ? t : l.longest - 1 - t;
    const Walk w = walk(l, p, step, l.h0 != nullptr, rows, previous);
    for (I i = 0; i < w.n; i++) {
      const bool inside = previous[i] >= 0;
      a[i] = i >= w.before ? nullptr
             : inside      ? l.y + l.source[previous[i]] * D * s.hidden + p.d * s.hidden
                           : text_row(l.h0, l, p.d, p.part + i * p.parts, s.hidden);
      c_old[i] = i >= w.before || s.cell != LSTM ? nullptr
                 : inside                        ? l.cells[p.d] + previous[i] * cw
                                                 : (l.c0 ? c_start + i * cw : nullptr);
    }
    const F* const* h = as_factors(w.before, a, s.hidden, c_start + room * cw, narrowed);
    for (I panel = 0; panel < s.panels; panel++) {
      for (I i = 0; i < w.n; i++) {
        float* g = l.gates[p.d] + rows[i] * s.width + panel * s.slots * W;
        if (s.cell == GRU) store(g + 3 * W, load(bias_n + panel * W));
        c[i] = g + s.h_from * W;
      }
      product(w.before, {1, s.hidden, 0}, h, packed_h + panel * factors(s.hidden) * s.h_slots * W, s.h_slots, nullptr, c, ADD);
      for (I i = 0; i < w.n; i++)
        activate(l, s, panel, c[i] - s.h_from * W, l.y + l.source[rows[i]] * D * s.hidden + p.d * s.hidden,
                 s.cell == LSTM ? l.cells[p.d] + rows[i] * cw : nullptr, a[i], c_old[i]);
    }
  }
  l.give(memory);
}

// Where the first or last state of a sorted place lies: its last token forwards, its first backwards; -1 without tokens.
I last_row(const Layer& l, int d, I place) {
  if (l.longest == 0 || place >= l.counts[0]) return -1;
  if (d == 1) return l.offsets[0] + place;
  I t = l.longest - 1;
  while (place >= l.counts[t]) t--;
  return l.offsets[t] + place;
}

// The gradient before the activations, into g's own place in d (as wide as gates), and the state's gradient into dc, dh.
void slopes(const Shape& s, I panel, const float* g, float* d, const float* dy, const float* y, float* dh, float* dc,
            const float* c, const float* c_before, const float* h_before) {
  if (s.gates == 1) {
    for (int slot = 0; slot < s.slots; slot++) {
      const I unit = panel * s.units + slot * W, n = s.hidden - unit;
      if (n <= 0) {
        store(d + slot * W, V{});
        continue;
      }
      const V out = load_some(y + unit, n), slope = load_some(dy + unit, n) + load(dh + unit);
      store(d + slot * W, s.cell == TANH ? slope * (1.f - out * out) : (out > 0.f ? slope : out == out ? V{} : out));
      store(dh + unit, V{});
    }
    return;
  }
  const I unit = panel * W, n = s.hidden - unit;
  const V slope = load_some(dy + unit, n) + load(dh + unit);
  if (s.cell == LSTM) {
    const V i = load(g), f = load(g + W), u = load(g + 2 * W), o = load(g + 3 * W), wide = hyperbolic(load(c + unit));
    const V state = load(dc + unit) + slope * o * (1.f - wide * wide);
    store(d, state * u * i * (1.f - i));
    store(d + W, c_before ? state * load(c_before + unit) * f * (1.f - f) : V{});
    store(d + 2 * W, state * i * (1.f - u * u));
    store(d + 3 * W, slope * wide * o * (1.f - o));
    store(dc + unit, state * f);
    store(dh + unit, V{});
  } else {
    const V u = load(g), r = load(g + W), z = load(g + 2 * W), inner = load(g + 3 * W);
    const V old = h_before ? load_some(h_before + unit, n) : V{};
    const V du = slope * (1.f - z) * (1.f - u * u);
    store(d, du);
    store(d + W, du * inner * r * (1.f - r));
    store(d + 2 * W, slope * (old - u) * z * (1.f - z));
    store(d + 3 * W, du * r);
    store(dh + unit, slope * z);
  }
}

void steps_backward(Layer& l, const Shape& s, const Part& p, const F* packed_h, float* dgates) {
  const I room = l.texts / p.parts + 1, D = l.directions, cw = s.panels * s.units;
  const I hw = up(s.hidden, 4 * W) > cw ? up(s.hidden, 4 * W) : cw;  // products write whole panels of four vectors
  const I used = s.width - s.h_from * W;  // of a row of gates, from the first that h gives on
  float* memory = l.take(room * (10 + hw + 2 * cw + narrow_width(used)));
  I* rows = reinterpret_cast<I*>(memory);
  I* previous = rows + room;
  const float** a = reinterpret_cast<const float**>(previous + room);
  float** c = (float**)(a + room);
  const F** narrowed = (const F**)(c + room);
  float* dh = memory + room * 10;
  float* dc = dh + room * hw;
  float* c_start = dc + room * cw;
  memset(dh, 0, sizeof(float) * room * (hw + 2 * cw));
  for (I i = p.part, j = 0; i < l.texts; i += p.parts, j++) {
    if (l.dhn) memcpy(dh + j * hw, text_row(l.dhn, l, p.d, i, s.hidden), sizeof(float) * s.hidden);
    if (l.dcn) memcpy(dc + j * cw, text_row(l.dcn, l, p.d, i, s.hidden), sizeof(float) * s.hidden);
    if (l.c0) memcpy(c_start + j * cw, text_row(l.c0, l, p.d, i, s.hidden), sizeof(float) * s.hidden);
  }
  const I panels_h = up(s.hidden, 4 * W) / (4 * W);
  for (I t = 0; t < l.longest; t++) {
    const I step = p.d == 0 ? l.longest - 1 - t : t;
    const Walk w = walk(l, p, step, l.h0 != nullptr, rows, previous);
    for (I i = 0; i < w.n; i++) {
      const bool inside = previous[i] >= 0, has = i < w.before;
      const I out = l.source[rows[i]] * D * s.hidden + p.d * s.hidden;
      const float* h_before = !has     ? nullptr
                              : inside ? l.y + l.source[previous[i]] * D * s.hidden + p.d * s.hidden
                                       : text_row(l.h0, l, p.d, p.part + i * p.parts, s.hidden);
      const float* c_before = !has || s.cell != LSTM ? nullptr
                              : inside               ? l.cells[p.d] + previous[i] * cw
                                                     : (l.c0 ? c_start + i * cw : nullptr);
      for (I panel = 0; panel < s.panels; panel++) {
        const I at = rows[i] * s.width + panel * s.slots * W;
        slopes(s, panel, l.gates[p.d] + at, dgates + at, l.dy + out, l.y + out, dh + i * hw, dc + i * cw,
               s.cell == LSTM ? l.cells[p.d] + rows[i] * cw : nullptr, c_before, h_before);
      }
      a[i] = dgates + rows[i] * s.width + s.h_from * W;
    }
    const Span span = s.h_slots == s.slots ? Span{1, s.width, 0} : Span{s.panels, s.h_slots * W, s.slots * W};
    const F* const* d = as_factors(w.before, a, used, c_start + room * cw, narrowed);
    for (I panel = 0; panel < panels_h; panel++) {
      for (I i = 0; i < w.before; i++) c[i] = dh + i * hw + panel * 4 * W;
      product(w.before, span, d, packed_h + panel * factors(s.panels * s.h_slots * W) * 4 * W, 4, nullptr, c, ADD);
    }
  }
  for (I i = p.part, j = 0; i < l.texts; i += p.parts, j++) {
    const I to = (p.d * l.texts + l.order[i]) * s.hidden;
    if (l.dh0) memcpy(l.dh0 + to, dh + j * hw, sizeof(float) * s.hidden);
    if (l.dc0) memcpy(l.dc0 + to, dc + j * cw, sizeof(float) * s.hidden);
  }
  l.give(memory);
}

// --- gradients of weights: sums of outer products over packed rows ----------------------------------------------------
constexpr I RUN = 192;   // factors of rows that are summed while both operands stay in the caches
constexpr I OCTETS = 8;  // tiles of the left operand that are packed together

// Adds the k outer products of gates' gradients (by address, the columns of octets first to last) and rows of b to the
// matrix dw (gates * hidden, columns), and the sums of the gradients to db, where that is given.
void outer(Layer& l, const Shape& s, I k, const float* const* dg, const float* const* b, I columns, int from, int slots,
           I first, I last, float* dw, float* db) {
  const I vectors = (columns + W - 1) / W, ldc = vectors * W, octets = slots * W / OM;
  float* memory = l.take((last - first) * OM * (ldc + 1) + RUN * ldc + OCTETS * RUN * OM + W);
  float *sums = memory, *totals = sums + (last - first) * OM * ldc;
  F *packed_b = reinterpret_cast<F*>(totals + (last - first) * OM), *packed_a = packed_b + RUN * ldc;
  memset(sums, 0, sizeof(float) * (last - first) * OM * ldc);
  memset(totals, 0, sizeof(float) * (last - first) * OM);
  for (I at = 0; at < k; at += RUN * FACTORS) {
    const I end = least(at + RUN * FACTORS, k), run = factors(end - at);
    F* to = packed_b;
    for (I v = 0; v < vectors;) {
      const I left = vectors - v, nv = left == 4 ? 2 : least(ON, left);
      for (I r = at; r < end; r += FACTORS)
        for (I j = 0; j < nv; j++, to += W) {
          const I column = (v + j) * W, n = columns - column;
          const bool both = FACTORS == 2 && r + 1 < end;
          store_factors(to, joined(load_some(b[r] + column, n), both ? load_some(b[r + 1] + column, n) : V{}));
        }
      v += nv;
    }
    for (I some = first; some < last; some += OCTETS) {
      const I n = least(OCTETS, last - some);
      // several octets to each visit of a row: rows lie whole pages apart
      I places[OCTETS];
      VO total[OCTETS];
      for (I j = 0; j < n; j++) {
        places[j] = (some + j) / octets * s.slots * W + from * W + (some + j) % octets * OM;
        total[j] = *reinterpret_cast<VO*>(totals + (some - first + j) * OM);
      }
      for (I r = 0; r < run; r++) {
        const I one = at + r * FACTORS;
        const bool both = FACTORS == 2 && one + 1 < end;
        for (I j = 0; j < n; j++) {
          const VO v = *reinterpret_cast<const VO*>(dg[one] + places[j]);
          VO next = {};
          total[j] += v;
          if (both) next = *reinterpret_cast<const VO*>(dg[one + 1] + places[j]), total[j] += next;
          *reinterpret_cast<VOF*>(packed_a + (j * RUN + r) * OM) = joined(v, next);
        }
      }
      for (I j = 0; j < n; j++) *reinterpret_cast<VO*>(totals + (some - first + j) * OM) = total[j];
      const F* pb = packed_b;
      for (I v = 0; v < vectors;) {
        const I left = vectors - v, nv = left == 4 ? 2 : least(ON, left);
        for (I j = 0; j < n; j++) {
          float* c = sums + (some - first + j) * OM * ldc + v * W;
          const F* pa = packed_a + j * RUN * OM;
          if (nv == 3) outer_tile<3>(run, pa, pb, c, ldc);
          else if (nv == 2) outer_tile<2>(run, pa, pb, c, ldc);
          else outer_tile<1>(run, pa, pb, c, ldc);
        }
        pb += run * nv * W;
        v += nv;
      }
    }
  }
  for (I o = first; o < last; o++)
    for (int m = 0; m < OM; m++) {
      const I in = o % octets * OM + m, row = s.row(o / octets, from + in / W, in % W);
      if (row < 0) continue;
      memcpy(dw + row * columns, sums + ((o - first) * OM + m) * ldc, sizeof(float) * columns);
      if (db) db[row] = totals[(o - first) * OM + m];
    }
  l.give(memory);
}

// --- the layer --------------------------------------------------------------------------------------------------------
I parts_of(const Layer& l) {
  const I most = l.texts < 1 ? 1 : l.texts;
  return least(most, (l.threads + l.directions - 1) / l.directions);
}

void clear_padding(const Layer& l, float* array, I width) {
  if (l.rows == l.steps * l.texts) return;
  for (I i = 0; i < l.texts; i++) {
    I length = 0;
    while (length < l.longest && i < l.counts[length]) length++;
    for (I t = length; t < l.steps; t++) memset(array + (t * l.texts + l.order[i]) * width, 0, sizeof(float) * width);
  }
}

void forward(Layer& l) {
  const Shape s(l.cell, l.hidden, l.inputs);
  const I D = l.directions, xs = s.x_slots * W, hs = s.h_slots * W, cw = s.panels * s.units;
  const I kx = factors(s.inputs), kh = factors(s.hidden);
  const I size_x = s.panels * kx * xs, size_h = s.panels * kh * hs, size = size_x + size_h;
  float* memory = l.take(D * (size + 2 * s.width));
  F* packed = reinterpret_cast<F*>(memory);
  float* biases = memory + D * size;
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * s.panels; i++) {
    const int d = i / s.panels;
    const I panel = i % s.panels;
    const Direction w = direction(l, s, d, l.parameters);
    F* mine = packed + d * size;
    pack_panel(s, panel, s.x_from, s.x_slots, w.wx, s.inputs, mine + panel * kx * xs);
    pack_panel(s, panel, s.h_from, s.h_slots, w.wh, s.hidden, mine + size_x + panel * kh * hs);
    float *bias = biases + 2 * d * s.width + panel * xs, *bias_n = biases + (2 * d + 1) * s.width + panel * W;
    for (int j = 0; j < xs; j++) {
      const I row = s.row(panel, s.x_from + j / W, j % W);
      // what the recurrent bias adds to n stands inside of r's product
      bias[j] = row < 0 ? 0.f : s.cell == GRU && j < W ? w.bx[row] : w.bx[row] + w.bh[row];
      if (s.cell == GRU && j < W) bias_n[j] = row < 0 ? 0.f : w.bh[row];
    }
  }
  // all inputs' products at once: packed rows in chunks that fit the second cache beside a panel
  const I chunk = up(least(384, 131072 / s.inputs + 1), MR), chunks = (l.rows + chunk - 1) / chunk;
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * chunks; i++) {
    const int d = i / chunks;
    const I begin = i % chunks * chunk, m = least(chunk, l.rows - begin);
    const float* a[512];
    const F* narrowed[512];
    float* c[512];
    for (I r = 0; r < m; r++) a[r] = l.x + l.source[begin + r] * s.inputs;
    float* room = l.take(m * narrow_width(s.inputs));
    const F* const* x = as_factors(m, a, s.inputs, room, narrowed);
    for (I panel = 0; panel < s.panels; panel++) {
      for (I r = 0; r < m; r++) c[r] = l.gates[d] + (begin + r) * s.width + panel * s.slots * W;
      product(m, {1, s.inputs, 0}, x, packed + d * size + panel * kx * xs, s.x_slots, biases + 2 * d * s.width + panel * xs,
              c, BIAS);
    }
    l.give(room);
  }
  const I parts = parts_of(l);
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * parts; i++) {
    const Part part{int(i / parts), i % parts, parts};
    steps_forward(l, s, part, packed + part.d * size + size_x, biases + (2 * part.d + 1) * s.width);
  }
  clear_padding(l, l.y, D * s.hidden);
  for (int d = 0; l.hn && d < D; d++)
    for (I i = 0; i < l.texts; i++) {
      const I row = last_row(l, d, i), to = (d * l.texts + l.order[i]) * s.hidden;
      const float* h = row < 0 ? text_row(l.h0, l, d, i, s.hidden) : l.y + l.source[row] * D * s.hidden + d * s.hidden;
      const float* c = row < 0 ? text_row(l.c0, l, d, i, s.hidden) : l.cn ? l.cells[d] + row * cw : nullptr;
      for (I j = 0; j < s.hidden; j++) l.hn[to + j] = h ? h[j] : 0.f;
      for (I j = 0; l.cn && j < s.hidden; j++) l.cn[to + j] = c ? c[j] : 0.f;
    }
  l.give(memory);
}

void backward(Layer& l) {
  const Shape s(l.cell, l.hidden, l.inputs);
  const I D = l.directions, wide = 4 * W, k_x = factors(s.panels * s.x_slots * W), k_h = factors(s.panels * s.h_slots * W);
  const I panels_x = up(s.inputs, wide) / wide, panels_h = up(s.hidden, wide) / wide;
  const I size_x = panels_x * k_x * wide, size_h = panels_h * k_h * wide, size = size_x + size_h;
  float* packed_memory = l.take(D * size);
  F* packed = reinterpret_cast<F*>(packed_memory);
  float* dgates = l.take(D * l.rows * s.width + W);
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * (panels_x + panels_h); i++) {
    const int d = i / (panels_x + panels_h);
    const I panel = i % (panels_x + panels_h);
    const Direction w = direction(l, s, d, l.parameters);
    if (panel < panels_x)
      pack_rows(s, s.x_from, s.x_slots, w.wx, s.inputs, panel * wide, 4, packed + d * size + panel * k_x * wide);
    else
      pack_rows(s, s.h_from, s.h_slots, w.wh, s.hidden, (panel - panels_x) * wide, 4,
                packed + d * size + size_x + (panel - panels_x) * k_h * wide);
  }
  const I parts = parts_of(l);
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * parts; i++) {
    const Part part{int(i / parts), i % parts, parts};
    steps_backward(l, s, part, packed + part.d * size + size_x, dgates + part.d * l.rows * s.width);
  }
  // gradients of the inputs: both directions' products into the same rows
  const Span span = s.x_slots == s.slots ? Span{1, s.width, 0} : Span{s.panels, s.x_slots * W, s.slots * W};
  const I chunk = up(least(384, 131072 / s.width + 1), MR), chunks = (l.rows + chunk - 1) / chunk;
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < chunks; i++) {
    const I begin = i * chunk, m = least(chunk, l.rows - begin);
    const float* a[2][512];
    const F *narrowed[2][512], *const* rows[2];
    float* c[512];
    float* room = l.take(D * m * narrow_width(s.width));
    for (int d = 0; d < D; d++) {
      for (I r = 0; r < m; r++) a[d][r] = dgates + (d * l.rows + begin + r) * s.width + s.x_from * W;
      rows[d] = as_factors(m, a[d], s.width - s.x_from * W, room + d * m * narrow_width(s.width), narrowed[d]);
    }
    float* edge = s.inputs % wide ? l.take(m * wide) : nullptr;  // the last panel may be wider than the array
    for (I panel = 0; panel < panels_x; panel++) {
      const bool whole = (panel + 1) * wide <= s.inputs;
      for (I r = 0; r < m; r++)
        c[r] = whole ? l.dx + l.source[begin + r] * s.inputs + panel * wide : edge + r * wide;
      for (int d = 0; d < D; d++)
        product(m, span, rows[d], packed + d * size + panel * k_x * wide, 4, nullptr, c, d ? ADD : ZERO);
      for (I r = 0; !whole && r < m; r++)
        memcpy(l.dx + l.source[begin + r] * s.inputs + panel * wide, c[r], sizeof(float) * (s.inputs - panel * wide));
    }
    l.give(room);
    if (edge) l.give(edge);
  }
  clear_padding(l, l.dx, s.inputs);
  // gradients of the weights: each worker owns some rows of them
  float* memory = l.take(D * 8 * (l.rows + 1));
  const float** dg = reinterpret_cast<const float**>(memory);
  const float** x = dg + D * l.rows;
  const float** dg_h = x + D * l.rows;
  const float** h = dg_h + D * l.rows;
  I having[2] = {};
  for (int d = 0; d < D; d++)
    for (I step = 0; step < l.longest; step++)
      for (I i = 0; i < l.counts[step]; i++) {
        const I row = l.offsets[step] + i, at = d * l.rows + row;
        dg[at] = dgates + at * s.width;
        x[at] = l.x + l.source[row] * s.inputs;
        const I earlier = d == 0 ? step - 1 : step + 1;
        const bool inside = earlier >= 0 && i < l.counts[earlier];
        if (!inside && !l.h0) continue;
        const I to = d * l.rows + having[d]++;
        dg_h[to] = dg[at];
        h[to] = inside ? l.y + l.source[l.offsets[earlier] + i] * D * s.hidden + d * s.hidden
                       : text_row(l.h0, l, d, i, s.hidden);
      }
  const I octets_x = s.panels * s.x_slots * W / OM, octets_h = s.panels * s.h_slots * W / OM, T = l.threads;
#pragma omp parallel for num_threads(l.threads) schedule(static)
  for (I i = 0; i < D * T; i++) {
    const int d = i / T;
    const I part = i % T;
    float* mine = l.dparameters;
    const Direction w = direction(l, s, d, mine);
    float *wx = const_cast<float*>(w.wx), *wh = const_cast<float*>(w.wh), *bx = const_cast<float*>(w.bx);
    outer(l, s, l.rows, dg + d * l.rows, x + d * l.rows, s.inputs, s.x_from, s.x_slots, part * octets_x / T,
          (part + 1) * octets_x / T, wx, bx);
    outer(l, s, having[d], dg_h + d * l.rows, h + d * l.rows, s.hidden, s.h_from, s.h_slots, part * octets_h / T,
          (part + 1) * octets_h / T, wh, nullptr);
  }
  // the recurrent bias has the input bias' gradient, but for n of GRU, which r scales
  for (int d = 0; d < D; d++) {
    const Direction w = direction(l, s, d, l.dparameters);
    float* bh = const_cast<float*>(w.bh);
    memcpy(bh, w.bx, sizeof(float) * s.gates * s.hidden);
    if (s.cell != GRU) continue;
    for (I panel = 0; panel < s.panels; panel++) {
      V total = {};
      for (I r = 0; r < l.rows; r++) total += load(dg[d * l.rows + r] + panel * s.slots * W + 3 * W);
      store_some(bh + 2 * s.hidden + panel * W, total, s.hidden - panel * W);
    }
  }
  l.give(memory);
  l.give(dgates);
  l.give(packed_memory);
}

int64_t gates_width(int cell, int64_t hidden) { return Shape(cell, hidden, 1).width; }
int64_t cells_width(int cell, int64_t hidden) { return Shape(cell, hidden, 1).panels * Shape(cell, hidden, 1).units; }

}  // namespace

extern const Arithmetic ISA;
#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
const Arithmetic ISA = {NAME(ISA), gates_width, cells_width, forward, backward};

}  // namespace duplet
