"""Room 12: what a model is worth, and the report."""
