"""Who may call the server: tenants, their keys, the admin key. Knows nothing of HTTP or models."""
