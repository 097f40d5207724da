"""Drawings of graphs: SVG text, with no program and no font needed from the system."""

from netc.draw.svg import draw

__all__ = ["draw"]
