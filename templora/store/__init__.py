"""Sessions on disk: `log.py` (what happened), `saved.py` (one session and its log), `store.py` (all of them)."""
