"""Collection of experience: whole trainings with many losses, side by side or in Latin squares."""
