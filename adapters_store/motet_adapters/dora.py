"""DoRA's gain (arXiv 2402.09353): m / ||W + B A|| per output row, without forming B A."""

import torch
from torch import Tensor


def dora_gain(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor) -> Tensor:
    """[N] float32: what the whole adapted product of a row is multiplied by.

    weight [N, K], a [R, K], b [N, R] with the scale folded in, magnitude [N]; all float32. `weight`
    must be the weight that really runs, for a quantised base the dequantised one.

    ||w_n + b_n A||^2 = ||w_n||^2 + 2 <W A^T, B>_n + <B (A A^T), B>_n, which costs O(N K R) like one
    forward of R tokens and needs no N x K temporary beside W.
    """
    # The three terms may nearly cancel; float64 costs little on tensors of R columns.
    cross = (weight @ a.t()).double()
    square = (b @ (a @ a.t())).double()
    terms = ((2.0 * cross + square) * b.double()).sum(dim=1)
    norm = (weight.square().sum(dim=1).double() + terms).clamp_min(0.0).sqrt()
    return (magnitude.double() / norm).to(torch.float32)
