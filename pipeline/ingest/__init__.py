"""Raw sources of many formats -> records in Parquet, split, with the bad rows put aside and everything counted."""
