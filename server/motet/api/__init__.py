"""HTTP: OpenAI's routes, the adapters' routes, errors, metrics. Knows nothing of tensors."""
