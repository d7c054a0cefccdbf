"""Room 0: what a recipe may say, and reading it."""
