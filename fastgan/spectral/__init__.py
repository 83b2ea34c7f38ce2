"""Spectral norm of layers and of networks: the styles it is written in, and the group that computes all of them."""
