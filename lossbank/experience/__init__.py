"""Experience: what losses did in which context, found again and predicted from."""
