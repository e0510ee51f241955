"""Subsplits of trees as tensors: codes, indices, sums over rootings, draws and dynamic programs."""
