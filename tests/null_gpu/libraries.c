/* What MXNet asks cuDNN and cuBLAS for and reads: sizes and algorithms. What only computes or only sets something is
 * answered by build.py. Arguments are those of NVIDIA's documentation, with pointers to descriptors of our own. */
#include <stddef.h>
#include <string.h>
#include "null_gpu.h"

enum { OK, FLOAT = 4, ANY = 1 << 16 };

typedef struct { int dims, dim[8]; } Tensor;
typedef struct { int hidden, layers, directions, mode; } Recurrent;
typedef struct { int steps; } Sequences;

size_t cudnnGetVersion(void) { return 8500; }
const char *cudnnGetErrorString(int error) { return error ? "an error of the null cuDNN" : "no error"; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return OK; }

int cudnnSetTensorNdDescriptor(Tensor *tensor, int type, int dims, const int *dim, const int *stride) {
  if (dims > 8) null_gpu_unanswered("cudnnSetTensorNdDescriptor of more than 8 dimensions");
  tensor->dims = dims;
  memcpy(tensor->dim, dim, dims * sizeof(int));
  return OK;
}
int cudnnSetTensor4dDescriptor(Tensor *tensor, int format, int type, int n, int c, int h, int w) {
  *tensor = (Tensor){4, {n, c, h, w}};
  return OK;
}

/* --- recurrent layers ------------------------------------------------------------------------------------------------- */
int cudnnSetRNNDescriptor_v6(void *handle, Recurrent *rnn, int hidden, int layers, void *dropout, int input,
                             int direction, int mode, int algorithm, int precision) {
  *rnn = (Recurrent){hidden, layers, direction == 1 ? 2 : 1, mode};
  return OK;
}
int cudnnSetRNNDataDescriptor(Sequences *data, int type, int layout, int steps, int batch, int width,
                              const int *lengths, void *padding) {
  data->steps = steps;
  return OK;
}
/* In true bytes: MXNet compares them with the parameters that it is given. */
int cudnnGetRNNParamsSize(void *handle, Recurrent *rnn, Tensor *x, size_t *bytes, int type) {
  static const int gates[] = {1, 1, 4, 3}; /* relu, tanh, LSTM, GRU */
  size_t inputs = x->dim[1], count = 0;
  for (int layer = 0; layer < rnn->layers; layer++) {
    count += (size_t)rnn->directions * gates[rnn->mode] * rnn->hidden * (inputs + rnn->hidden + 2);
    inputs = (size_t)rnn->hidden * rnn->directions;
  }
  *bytes = count * FLOAT;
  return OK;
}
int cudnnGetRNNWorkspaceSize(void *handle, Recurrent *rnn, int steps, Tensor **x, size_t *bytes) {
  *bytes = ANY;
  return OK;
}
int cudnnGetRNNTrainingReserveSize(void *handle, Recurrent *rnn, int steps, Tensor **x, size_t *bytes) {
  *bytes = ANY;
  return OK;
}
int cudnnRNNForwardTrainingEx(void *handle, Recurrent *rnn, Sequences *x) {
  null_gpu_count(LIBRARY_CALLS, 1);
  null_gpu_count(RNN_STEPS, (long)rnn->layers * x->steps);
  return OK;
}

/* --- dropout within recurrent layers ------------------------------------------------------------------------------- */
int cudnnDropoutGetStatesSize(void *handle, size_t *bytes) { *bytes = ANY; return OK; }
int cudnnDropoutGetReserveSpaceSize(Tensor *x, size_t *bytes) {
  size_t count = 1;
  for (int i = 0; i < x->dims; i++) count *= x->dim[i];
  *bytes = count / 8 + 1;
  return OK;
}

/* --- convolutions: one algorithm for each direction, found at once ------------------------------------------------ */
typedef struct { int algorithm, status; float time; size_t memory; int determinism, math, reserved[3]; } Found;

static int found(int *count, Found *algorithms) {
  *count = 1;
  *algorithms = (Found){1, OK, 1.0f, 0, 1, 0, {0}};
  return OK;
}

#define CONVOLUTION(direction)                                                                               \
  int cudnnGetConvolution##direction##AlgorithmMaxCount(void *h, int *count) { *count = 1; return OK; }      \
  int cudnnFindConvolution##direction##Algorithm(void *h, void *a, void *b, void *c, void *d, int wanted,    \
                                                 int *count, Found *f) { return found(count, f); }           \
  int cudnnGetConvolution##direction##Algorithm_v7(void *h, void *a, void *b, void *c, void *d, int wanted,  \
                                                   int *count, Found *f) { return found(count, f); }         \
  int cudnnGetConvolution##direction##WorkspaceSize(void *h, void *a, void *b, void *c, void *d, int which,  \
                                                    size_t *bytes) { *bytes = 0; return OK; }
CONVOLUTION(Forward)
CONVOLUTION(BackwardData)
CONVOLUTION(BackwardFilter)
