"""The report's page: one file that opens from disk, asks for nothing, and says what its numbers rest on."""
