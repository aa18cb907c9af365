"""Sentences as words and as word pieces, and their ids."""
