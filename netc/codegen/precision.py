"""How exactly products are computed, and how values are stored between kernels.

Processors compute as in EXACT or HIGH; in LOW some products of bfloat16 operands, in INT8 some of
bytes, where they have instructions for them, and store maps in channel blocks as bfloat16. GPUs
know no INT8: LOW is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Precision(Enum):
    """By the names that users give."""

    EXACT = "exact"  # float32 products and sums, no matrix units
    HIGH = "high"  # three tf32 products for one: near float32
    MEDIUM = "medium"  # one product of operands rounded to tf32
    LOW = "low"  # bfloat16 operands and storage, float32 sums
    FP16 = "fp16"  # float16 operands and storage, float32 sums
    INT8 = "int8"  # operands of eight bits, with a scale for each image and output channel

    @property
    def on_gpus(self) -> Precision:
        """What GPUs compute where this is asked for."""
        return Precision.LOW if self is Precision.INT8 else self

    @property
    def element(self) -> str:
        """How floats are stored between kernels: "" for float32, "tf32" for float32 rounded to it.

        Matrix units cut tf32 operands off instead of rounding them, which shrinks every product a
        little; what is rounded when it is stored stays as it is.
        """
        names = {Precision.LOW: "bf16", Precision.FP16: "fp16", Precision.MEDIUM: "tf32"}
        return names.get(self, "")

    @property
    def item(self) -> int:
        """Bytes of an operand."""
        return 2 if self in (Precision.LOW, Precision.FP16) else 4

    @property
    def input(self) -> str:
        """Triton's name of the way operands are multiplied."""
        names = {Precision.HIGH: "tf32x3", Precision.MEDIUM: "tf32"}
        return names.get(self, "ieee")


# What makes a difference there.
ON_PROCESSORS = (Precision.EXACT, Precision.HIGH, Precision.LOW, Precision.INT8)


def most_exact(names: Sequence[str]) -> str:
    """Which of several precisions holds where they meet."""
    order = [p.value for p in Precision]
    return min(names, key=order.index)
