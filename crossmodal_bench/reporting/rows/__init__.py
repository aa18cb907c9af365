"""From records to the rows of leaderboards, with the interval and the published number of each cell."""
