"""Where and when a pipeline runs; may import `pipeline`, never the reverse."""
