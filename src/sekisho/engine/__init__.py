"""The Python face of the native engine, and the model it is checked against."""
