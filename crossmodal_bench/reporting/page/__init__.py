"""The report's page: one file that opens from disk, fetches nothing, and documents its numbers."""
