"""Which run or version is meant, and which one is live."""
