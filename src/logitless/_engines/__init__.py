"""What does the arithmetic: compiled kernels, or plain NumPy in their place."""
