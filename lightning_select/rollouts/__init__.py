"""Training on rewards: attempts at prompts, filters on groups of attempts, and a policy that learns from those kept."""
