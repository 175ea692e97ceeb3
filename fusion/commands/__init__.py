"""What can be asked on the command line: one file per command, with its words, its arguments and what it does."""
