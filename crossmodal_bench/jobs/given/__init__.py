"""Models from elsewhere: vectors or scores that a user gives, evaluated and recorded like the bench's own."""
