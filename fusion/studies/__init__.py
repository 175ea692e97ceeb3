"""Experiments run from the command line: what the product claims, measured on models and targets whose truth is known."""
