"""The engine over the compiled kernels."""
