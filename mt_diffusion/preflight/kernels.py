"""Operations of attention's kernels in a compiled program, of which XLA counts none."""

import math
import re

# Products of queries with keys: the logits, and what they weigh; going back the logits
# once more, and what all four of queries, keys, values and weights change.
PRODUCTS = {"fwd": 2, "dkv": 5}
CALL = re.compile(r"%splash_mha_(\w+?)_\S* = .*operand_layout_constraints=\{(.*?)\}\}")
OPERAND = re.compile(r"(?:bf16|f32)\[([\d,]+)\]")


def flops(text: str) -> float:
    """Of a program as the compiler writes it, per device; the body of a loop once.

    Queries [B, heads, Q, C] and keys [B, heads, K, C] are the first arrays of a call
    that are no integers.
    """
    total = 0.0
    for kind, operands in CALL.findall(text):
        query, key = (
            [int(num) for num in shape.split(",")]
            for shape in OPERAND.findall(operands)[:2]
        )
        total += PRODUCTS[kind] * 2.0 * math.prod(query) * key[-2]
    return total
