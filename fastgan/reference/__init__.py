"""Plain torch definitions of every op, differentiable to any order. They import nothing else of fastgan."""
