"""Room 2: what a recipe needs, before anything runs."""
