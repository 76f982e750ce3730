"""Prompts, corpora, tokenizers and templates: numpy only."""
