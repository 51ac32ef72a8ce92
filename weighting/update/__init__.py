"""Support side of a step: the judge of its values, and the gradient of the update."""
