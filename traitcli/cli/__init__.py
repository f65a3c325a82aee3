"""The command line: parses options, calls the stages, prints results. Imports are light."""
