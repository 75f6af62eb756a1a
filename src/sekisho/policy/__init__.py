"""The versioned file that holds protocols, and its compilation to the engine's table."""
