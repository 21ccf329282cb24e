"""Triton on CUDA. Only `dispatch.select_ops` imports it: it needs Triton to be installed."""
