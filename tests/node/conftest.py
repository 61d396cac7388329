"""Fixtures that the tests of this folder share."""

from tests.support.records import spoilt, tiny_run, tiny_submit

__all__ = ["spoilt", "tiny_run", "tiny_submit"]
