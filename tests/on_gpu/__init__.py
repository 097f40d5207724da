"""Nets compiled here and run on a machine with a GPU."""
