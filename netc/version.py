"""The one place that says which netc this is."""

__version__ = "0.1.0"
