// What the operator (recurrent_op.cc) hands to the arithmetic (recurrent_isa.cc, compiled once per instruction set).
// Plain data only: no inline function of the standard library may be compiled with instructions that the processor lacks.
#pragma once
#include <cstddef>
#include <cstdint>

namespace duplet {

enum Cell { TANH = 0, RELU = 1, GRU = 2, LSTM = 3 };

// One layer over N texts. Texts are sorted by falling length; a packed row is one token of one text, and the rows of
// step t stand side by side: row offsets[t] + i is token t of the i-th longest text. So no row stands for padding.
struct Layer {
  int cell, directions, threads;
  int64_t steps;            // T, of the padded arrays
  int64_t texts;            // N
  int64_t inputs, hidden;   // C, H
  int64_t longest;          // steps that some text has
  int64_t rows;             // tokens of all texts
  const int64_t* counts;    // (longest + 1,) texts that have step t; 0 at the end
  const int64_t* offsets;   // (longest + 1,)
  const int64_t* order;     // (N,) the text of sorted place i
  const int64_t* source;    // (rows,) t * N + text: the row's place in (T, N, …)
  const float* x;           // (T, N, C)
  const float* parameters;  // per direction i2h (G H, C), h2h (G H, H); then per direction i2h bias, h2h bias (G H,)
  const float* h0;          // (D, N, H), or null: zeros
  const float* c0;          // (D, N, H), or null: zeros
  float* y;                 // (T, N, D H)
  float* hn;                // (D, N, H), or null
  float* cn;                // (D, N, H), or null
  float* gates[2];          // what backward needs of forward, per direction: activated gates (rows, gates_width)
  float* cells[2];          // LSTM: c (rows, cells_width)
  // backward
  const float* dy;          // (T, N, D H)
  const float* dhn;         // (D, N, H), or null
  const float* dcn;         // (D, N, H), or null
  float* dx;                // (T, N, C)
  float* dparameters;       // as parameters
  float* dh0;               // (D, N, H), or null
  float* dc0;               // (D, N, H), or null
  float* (*take)(size_t floats);  // memory of 64-byte alignment, not cleared
  void (*give)(float* memory);
};

struct Arithmetic {
  const char* name;
  int64_t (*gates_width)(int cell, int64_t hidden);
  int64_t (*cells_width)(int cell, int64_t hidden);
  void (*forward)(Layer& layer);
  void (*backward)(Layer& layer);
};

extern const Arithmetic avx512_bf16, avx512, avx2;

}  // namespace duplet
