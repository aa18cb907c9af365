"""What a job is: its configuration, its directory and its record."""
