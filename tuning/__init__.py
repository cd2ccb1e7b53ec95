"""Searches: oracles propose trials, and each trial is a training run."""
