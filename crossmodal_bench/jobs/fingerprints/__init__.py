"""What a number depends on, as digests: the sources that are run, settings, protocols and libraries."""
