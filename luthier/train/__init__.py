"""Room 10: the one loop, its objective, checkpoints, guards."""
