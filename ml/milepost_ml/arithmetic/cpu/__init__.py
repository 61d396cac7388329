"""The operations of `backends.Backend` for processors: kernels compiled with Numba."""
