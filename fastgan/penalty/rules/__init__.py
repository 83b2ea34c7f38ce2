"""What the linearized engine knows of operations: how each is replayed with its pattern frozen.

Each operation here is piecewise affine in its activations and does not mix samples. What is not here, and what a rule
refuses, goes to the general engine.
"""

from fastgan.penalty.rules import fused, linear, piecewise

RULES = {**linear.RULES, **piecewise.RULES, **fused.RULES}
