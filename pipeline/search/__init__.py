"""A collection made searchable by a trained model: an index on disk, queries against it, and a page to type them in."""
