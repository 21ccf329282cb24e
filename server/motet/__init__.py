"""Motet: many tenants' adapters over one NF4 base model, in shared forward passes."""
