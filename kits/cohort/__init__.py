"""Thousands of cases on many machines: a Ray cluster, several GPUs, and one table of all."""
