"""Threads: how many, and a pool of them."""
