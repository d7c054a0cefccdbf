"""Room 1: run directories, the stage store, metrics, progress, locks."""
