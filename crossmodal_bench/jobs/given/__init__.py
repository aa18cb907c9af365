"""Models from elsewhere: a user's vectors or scores, evaluated and recorded like the bench's own methods."""
