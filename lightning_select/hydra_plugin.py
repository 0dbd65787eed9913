"""Makes our configs visible in anyone's Hydra app."""
