"""An OpenAI-compatible API in front of one engine: sessions that learn while they are written.

request ─► schemas ─► which session (directory, alignment) ─► queue ─► a worker thread ─► channel ─► shapes ─► client
                                                                      drives a session's
                                                                      verbs on the engine
"""
