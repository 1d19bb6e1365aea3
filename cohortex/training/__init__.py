"""Trainings of the stages' models: pairs, loops, checkpoints and the cards that come of them; importing this imports no torch."""
