"""Vectorised torch on the CPU."""
