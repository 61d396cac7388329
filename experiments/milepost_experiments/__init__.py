"""Experiments on Milepost and the papers it implements: one module a question."""
