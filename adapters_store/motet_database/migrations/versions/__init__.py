"""The steps; `revision` and `down_revision` give their order."""
