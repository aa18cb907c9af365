"""The uncertainty of numbers: the interval of one, and the difference between two or among a table's."""
