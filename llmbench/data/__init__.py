"""Prompts and held-out texts: bundled, from files, from data sets of the hub."""
