/* A GPU that computes nothing: its memory is the host's, its kernels are counted and do nothing. */
#ifndef NULL_GPU_H
#define NULL_GPU_H

enum { /* in the order in which device.py names them */
  LAUNCHES,      /* of MXNet's own kernels */
  LIBRARY_CALLS, /* of cuBLAS, cuDNN, cuRAND: each launches kernels of its own */
  SYNCS,         /* waits of a host thread for a stream or for the device */
  TO_DEVICE, FROM_DEVICE, ON_DEVICE, /* copies */
  BYTES_TO_DEVICE, BYTES_FROM_DEVICE, BYTES_ON_DEVICE,
  ALLOCATIONS,   /* of device memory */
  RNN_STEPS,     /* time steps that cuDNN's recurrent layers take in sequence, forward */
  COUNTERS
};

void null_gpu_count(int counter, long times);
/* Ends the process: an answer that nobody thought about could be wrong in silence. */
void null_gpu_unanswered(const char *function);

#endif
