"""Encodings of text: what they are called, and which one bytes are surely in."""
