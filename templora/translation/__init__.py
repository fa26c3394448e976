"""Translating documents: everything around the model."""
