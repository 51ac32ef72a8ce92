"""Min-norm problems: the shortest vector in the convex hull of T rows."""
