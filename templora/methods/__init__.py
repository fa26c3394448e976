"""Ways to keep the text before a chunk, and what an adapter may be taught: one short file each."""
