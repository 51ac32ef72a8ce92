"""Texts: words or word pieces, word vectors, encoded corpora, and the suites made of them."""
