"""The version, in one place; read by the packaging and by the default ``User-Agent``."""

__version__ = "0.1.0"
