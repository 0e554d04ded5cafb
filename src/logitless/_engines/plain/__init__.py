"""The engine in plain NumPy."""
