"""Arrays in files that users bring: read safely, whoever wrote them."""
