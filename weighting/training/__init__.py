"""What a loop hands to a step: losses, parameters, optimisers, names; and its running statistics."""
