"""Scripts that print the numbers which the docs quote."""
