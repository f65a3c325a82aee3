"""The objects that Python users and the command line work with."""
