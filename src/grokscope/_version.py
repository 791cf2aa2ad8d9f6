"""The version, for the package and for those who build it."""

__version__ = "0.2.0"
