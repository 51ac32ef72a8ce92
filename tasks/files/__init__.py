"""Files of corpora: where they come from, their checksums, downloads and the cache."""
