"""What is measured: one file a task."""

from __future__ import annotations

TASKS = {"pg19": "perplexity of whole books, by their length and by position in them"}
