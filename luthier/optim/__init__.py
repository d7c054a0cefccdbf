"""Room 9: optimizers, parameter groups, schedules."""
