"""How sure numbers are: the interval of one, and the difference between two or among a table's."""
