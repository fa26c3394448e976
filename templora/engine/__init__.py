"""The engine: one base model, and everything that may touch it."""

from templora.engine.engine import Engine as Engine
