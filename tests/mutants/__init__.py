"""Seeded protocol bugs: would the tests notice?  `python -m tests.mutants`."""
