"""The version of Duplet; pyproject.toml has it too. Every folder's manifest says which one wrote it."""

__version__ = "0.1.0"
