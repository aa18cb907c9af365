"""What every package may use: errors, files, batches, encodings, processes, signals; imports none of them."""
