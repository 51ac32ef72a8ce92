"""Tables of one's own as suites: files, columns, targets, splits."""
