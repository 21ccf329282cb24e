"""What `benchmarks/serve.py` is made of: loads, the systems that answer them, and the measuring."""
