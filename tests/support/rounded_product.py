"""Products with inputs rounded to 8 bits, slowly: the reference of fast_math on a CPU."""

import math

import torch
from motet_kernels import Nf4Weight
from torch import Tensor

TABLE_FACTOR = 112


def rounded_product(x: Tensor, weight: Nf4Weight) -> Tensor:
    """x [T, K] times weight [N, K], in float64 [T, N].

    Along K, inputs go by the groups of weights that share a scale. In each a row's inputs become
    whole multiples of their largest magnitude / 127, and the table's values whole multiples of
    1 / TABLE_FACTOR; between whole numbers the products are exact.
    """
    n, k = weight.shape
    length = math.gcd(k, 64)
    # A weight is its table value times a scale; without the scale the value is there again.
    exact = weight.dequantize(torch.float32).double().reshape(n, k // length, length)
    scales = weight.absmax.double().repeat_interleave(64)[: n * k].reshape(n, k // length, length)
    values = (exact / scales).nan_to_num()
    weights = (values * TABLE_FACTOR).round() / TABLE_FACTOR * scales
    return _rounded(x, length) @ weights.reshape(n, k).T


def rounded_dense(x: Tensor, weight: Tensor) -> Tensor:
    """The same with a weight [N, K] that is rounded like the inputs."""
    length = math.gcd(weight.shape[1], 64)
    return _rounded(x, length) @ _rounded(weight, length).T


def _rounded(x: Tensor, length: int) -> Tensor:
    """x [T, K], in groups of `length` along K, float64."""
    groups = x.float().reshape(len(x), -1, length)
    largest = groups.abs().amax(-1, keepdim=True)
    # In float32, as in the kernels: many bf16 numbers lie halfway between two codes. (A number over
    # a tensor would be the number times a reciprocal.)
    inverse = torch.full_like(largest, 127) / largest
    codes = torch.where(largest < 1e-30, 0.0, groups * inverse).round()
    return (codes.double() * (largest.double() / 127)).reshape(len(x), -1)
