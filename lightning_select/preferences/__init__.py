"""Reward models from pairs of completions, of which some are labelled the wrong way round."""
