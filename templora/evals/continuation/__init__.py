"""How well a model goes on with a book that it has read. All other evaluations are of given text."""
