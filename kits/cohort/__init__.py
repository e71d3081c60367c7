"""Thousands of cases on many machines: shards, a Ray cluster, object stores, and one manifest of all."""
