"""Arithmetic profiles: how a step's numbers are computed, so that others get the same ones."""
