"""Measured ratios and latencies; `make bench` prints them.  Nothing here asserts a time."""
