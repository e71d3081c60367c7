"""Scans and results on object stores and web servers, by fsspec: names, transfers, and what lies where."""
