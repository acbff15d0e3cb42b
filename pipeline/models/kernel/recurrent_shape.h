// How the parameters of a layer lie in MXNet's arrays, and how they are packed for products. Compiled with
// recurrent_isa.cc, once per instruction set.
#pragma once
#include "recurrent.h"
#include "recurrent_products.h"
#include <cstring>

namespace duplet {
namespace {

struct Shape {
  int cell, gates, slots, x_slots, x_from, h_slots, h_from;  // the vectors of a panel that x or h gives
  I hidden, inputs, units, panels, width;
  explicit Shape(int cell, I hidden, I inputs) : cell(cell), hidden(hidden), inputs(inputs) {
    gates = cell == LSTM ? 4 : cell == GRU ? 3 : 1;
    slots = cell == LSTM || cell == GRU ? 4 : 2;
    x_slots = h_slots = cell == LSTM ? 4 : cell == GRU ? 3 : 2;
    x_from = 0;
    h_from = cell == GRU ? 1 : 0;
    units = gates == 1 ? 2 * W : W;
    panels = (hidden + units - 1) / units;
    width = panels * slots * W;
  }
  // The row of MXNet's matrices for a slot's lane, -1 past the last unit. GRU in MXNet: r, z, n.
  I row(I panel, int slot, int lane) const {
    const I unit = panel * units + (gates == 1 ? slot * W : 0) + lane;
    if (unit >= hidden) return -1;
    const int gru[4] = {2, 0, 1, 2};
    return (gates == 1 ? 0 : cell == GRU ? gru[slot] : slot) * hidden + unit;
  }
};

struct Direction {
  const float *wx, *wh, *bx, *bh;
};
Direction direction(const Layer& l, const Shape& s, int d, const float* p) {
  const I wx = s.gates * s.hidden * s.inputs, wh = s.gates * s.hidden * s.hidden, b = s.gates * s.hidden;
  const float* biases = p + l.directions * (wx + wh);
  return {p + d * (wx + wh), p + d * (wx + wh) + wx, biases + 2 * d * b, biases + (2 * d + 1) * b};
}

// One panel of B for products by x or h: (factors(k), slots) from rows of W.
void pack_panel(const Shape& s, I panel, int from, int slots, const float* w, I k, F* to) {
  constexpr I SOME = 64;  // floats of a row at a time
  for (I begin = 0; begin < k; begin += SOME)
    for (int slot = 0; slot < slots; slot++)
      for (int lane = 0; lane < W; lane++) {
        const I row = s.row(panel, from + slot, lane), n = least(SOME, k - begin), last = factors(n);
        F *column = to + begin / FACTORS * slots * W + slot * W + lane, some[SOME];
        if (row < 0) memset(some, 0, sizeof some);
        else narrow(w + row * k + begin, n, some);
        for (I i = 0; i < last; i++) column[i * slots * W] = some[i];
      }
}

// One panel of B for products by gates' gradients: (factors(panels * slots * W), nv vectors) from columns `first` on of W.
void pack_rows(const Shape& s, int from, int slots, const float* w, I columns, I first, int nv, F* to) {
  for (I panel = 0; panel < s.panels; panel++)
    for (int slot = 0; slot < slots; slot++)
      for (int lane = 0; lane < W; lane += FACTORS)
        for (int v = 0; v < nv; v++, to += W) {
          V row[2] = {};
          for (int j = 0; j < FACTORS; j++) {
            const I r = s.row(panel, from + slot, lane + j), column = first + v * W, n = columns - column;
            if (r >= 0 && n > 0) row[j] = load_some(w + r * columns + column, n);
          }
          store_factors(to, joined(row[0], row[1]));
        }
}

}  // namespace
}  // namespace duplet
