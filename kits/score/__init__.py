"""Scores as the organisers of KiTS19 and KiTS23 compute them."""
