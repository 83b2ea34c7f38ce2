"""Whole training steps, and what only a step has: penalties and their gradients."""
