"""Where positives stand in a ranking: score tiles, streamed ranks, precision, the best of a gallery."""
