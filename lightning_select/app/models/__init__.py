"""Modules of the examples and experiments: ordinary LightningModules that know nothing of data selection."""
