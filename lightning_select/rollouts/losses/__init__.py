"""Losses of a policy that learns from rewards, one a file; they differ in how they average over tokens."""
