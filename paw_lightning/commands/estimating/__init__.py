"""What one iteration costs: arithmetic for reading, writing and training, a simulation for playing."""
