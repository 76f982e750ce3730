"""Losses and advantages: arrays in, arrays out."""
