"""What can be measured."""

from __future__ import annotations

TASKS = {
    "pg19": "perplexity of whole books, by their length and by position in them",
    "translation": "how well documents are translated that have a translation already, and how consistently",
}
