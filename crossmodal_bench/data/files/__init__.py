"""Arrays in users' files: read safely, whoever wrote them."""
