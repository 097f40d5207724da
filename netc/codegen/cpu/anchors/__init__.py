"""Kernel rules, one file a family; importing this package registers them all."""

from netc.codegen.cpu.anchors import choices as choices
from netc.codegen.cpu.anchors import conv as conv
from netc.codegen.cpu.anchors import copies as copies
from netc.codegen.cpu.anchors import direct as direct
from netc.codegen.cpu.anchors import images as images
from netc.codegen.cpu.anchors import indexing as indexing
from netc.codegen.cpu.anchors import lrn as lrn
from netc.codegen.cpu.anchors import pooling as pooling
from netc.codegen.cpu.anchors import randoms as randoms
from netc.codegen.cpu.anchors import ranking as ranking
from netc.codegen.cpu.anchors import reductions as reductions
from netc.codegen.cpu.anchors import softmax as softmax
from netc.codegen.cpu.anchors.elementwise import lower_elementwise

__all__ = ["lower_elementwise"]
