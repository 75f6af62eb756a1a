"""The Python face of the native engine, and the model it is checked against."""

from sekisho.engine.native import Denial, Engine, Origin, Statistics

__all__ = ["Denial", "Engine", "Origin", "Statistics"]
