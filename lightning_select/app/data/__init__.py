"""Data modules of the examples and experiments."""
