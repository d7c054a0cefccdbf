"""Room 11: post-training objectives."""
