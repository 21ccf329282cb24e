"""Requests in, events out: one thread that plans, forwards and commits.

Knows the kernels and the adapter store; knows nothing of HTTP, tenants' keys or quotas.
"""
