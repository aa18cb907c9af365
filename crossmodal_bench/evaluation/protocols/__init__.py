"""What a number was measured on: the named protocols, and whether a split is the published one."""
