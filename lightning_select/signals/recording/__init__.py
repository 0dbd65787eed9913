"""What a step did: its reductions, the terms that they are made of, and the gates for weights."""
