"""Weightings: losses to weights of mean one, one method a file."""
