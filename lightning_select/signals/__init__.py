"""What one forward pass of an unmodified training step tells about each row."""
