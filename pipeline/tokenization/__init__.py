"""Text to ids: tokenizers, a vocabulary from the training split, and memory-mapped shards of ids."""
