"""Documents made searchable, by words or a model too: an index on disk, queries against it, and a page for them."""
