"""A session: one text in progress, and the life of its chunks."""

from templora.session.session import Receipt as Receipt, Score as Score, Session as Session
