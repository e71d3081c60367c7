"""The three stages and what cleans up after them; ``cascade.py`` is the whole on one page."""
