"""The I/O automaton of a driver and its algebra."""
