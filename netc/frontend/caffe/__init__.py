"""Caffe nets: prototxt of every age, their weights, and what becomes of them."""

from netc.frontend.caffe.importer import from_caffe

__all__ = ["from_caffe"]
