"""Intake of untrusted files, one file a concern: opening, colour, captions, folders. `fusion.images` is its door."""
