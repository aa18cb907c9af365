"""Shared foundations: errors, files, batches, encodings, processes, signals. Imports no other package."""
