"""The shared language model: how it is loaded, what reads its hidden states, adapters, and what identifies it."""
