"""Real node processes on lines that fail, processes that stop and disks that fill up.

Every scenario ends the same way: everything works again, nobody helps, and then the ledger has to
be whole (`history.py`).
"""
