"""What a number rests on: the sources that an import leads to, settings, protocols and libraries, by digests."""
