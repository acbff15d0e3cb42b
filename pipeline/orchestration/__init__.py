"""The stages in order, and sweeps of many runs."""
