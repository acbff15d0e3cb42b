"""Our own recurrent layers for the CPU, in C++: an operator of an MXNet extension library."""
