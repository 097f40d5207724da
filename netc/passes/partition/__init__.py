"""Automatic placement: which device each node runs on, by one of several strategies."""
