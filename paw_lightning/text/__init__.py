"""From an environment's text to token ids and back."""
