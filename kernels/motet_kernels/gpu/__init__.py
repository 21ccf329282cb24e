"""Triton on CUDA. Imported by `dispatch.select_ops` alone: it needs Triton to be installed."""
