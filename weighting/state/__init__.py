"""State of a method: who of its tasks are present, in which order they stand, and of which method it is."""
