"""A session: one text in progress, and the life of its chunks."""
