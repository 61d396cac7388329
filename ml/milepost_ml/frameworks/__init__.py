"""Adapters to the frameworks in which people train, each imported only on use."""
