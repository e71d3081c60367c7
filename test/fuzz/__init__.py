"""Damaged scans without end: ``python -m test.fuzz --seconds 60``."""
