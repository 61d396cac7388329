"""Exact arithmetic once more: a slow program in plain NumPy, written from docs/spec/arithmetic.md.

It imports nothing of the package and no framework, so it is a second opinion on every rule.
Loops run over the reduced index in the order of the spec; NumPy only handles many results at once,
each by single IEEE-754 operations.  `tests/vectors/exact` holds what it computes.
"""
