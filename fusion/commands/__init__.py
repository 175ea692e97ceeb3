"""What can be asked on the command line: one file per command, with its words, its arguments and what it does."""

from __future__ import annotations


class Unsaved(ValueError):
    """The work is done and its file could not be written; `result` and `text` are what the command would have returned."""

    def __init__(self, message: str, result: dict, text: str):
        super().__init__(message)
        self.result, self.text = result, text
