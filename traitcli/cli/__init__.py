"""The command line: parse, hand over, print. Nothing heavy is imported before a command runs."""
