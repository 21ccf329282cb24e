"""Tensors in, tensors out. Knows nothing of tenants, HTTP or models."""
