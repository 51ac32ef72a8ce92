"""What a loop trains: its parameters, optimisers, running statistics, and the names it uses."""
