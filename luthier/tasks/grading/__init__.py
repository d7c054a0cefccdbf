"""Graders. In: what a model said, and a problem's answer. Out: a reward in [0, 1]. Next room: post, evals."""
