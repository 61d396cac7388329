"""Hostile input: bytes, files, requests and floods that nobody honest sends.

Whatever arrives, one of our refusals is all that may come of it, at a cost that the input's size
bounds.  Each property runs with few fixed examples among the fast tests and with many random ones
among the slow; what was found to be interesting stays in `corpus` and is tried first.
"""
