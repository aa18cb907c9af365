"""What a number rests on, by digests: the sources that are run, settings, protocols and libraries."""
