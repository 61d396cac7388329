"""The pure part of Milepost: formats, signatures, ledger machine, election, verification rules.

Nothing in this package reads a clock, a file, a socket or a random source, and nothing knows what
a tensor is.  Same state and same event give the same effects on every machine.
"""
