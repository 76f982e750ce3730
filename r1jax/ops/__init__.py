"""Leaves: array functions that know no model and no config."""
