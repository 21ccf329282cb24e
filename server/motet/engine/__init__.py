"""The engine: requests in, events out; one thread that plans, forwards and commits."""
