"""Project of a user's own, written by `lossrag new`."""
