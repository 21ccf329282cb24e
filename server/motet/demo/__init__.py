"""The demo: three adapters for the demo base, how they were made, and who owns them."""
