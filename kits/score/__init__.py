"""Scores as the organisers of KiTS19 and KiTS23 compute them."""

CONVENTIONS = ("kits19", "kits23")
"""Ways to score; ``metrics`` says what each computes."""
