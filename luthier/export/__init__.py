"""Room 13: the model in other projects' formats."""
