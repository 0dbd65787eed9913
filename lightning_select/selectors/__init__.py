"""Selectors: scores to the rows to keep, one method a file."""
