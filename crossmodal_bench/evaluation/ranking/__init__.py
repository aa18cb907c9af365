"""Rankings and the positions of positives: score tiles, streamed ranks, precision, the top of a gallery."""
