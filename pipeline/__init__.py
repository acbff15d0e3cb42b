"""What happens to data and models: ingest, tokenize, train, evaluate. See docs/ and the README's map."""

from pipeline import lean

__version__ = "0.1.0"  # pyproject.toml has it too; every folder's manifest says which one wrote it

lean.install()
