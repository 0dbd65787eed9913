"""Scores: signals to one number per row, one method a file."""
