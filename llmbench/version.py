"""The version, which Records name."""

__version__ = "0.2.0"
