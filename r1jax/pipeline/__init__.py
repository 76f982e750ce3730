"""Whole recipes, resumable."""
