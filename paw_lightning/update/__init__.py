"""From finished episodes to the mini-batches of an update."""
