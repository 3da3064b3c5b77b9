"""The base algorithms: what an action is worth, and the loss that follows from it."""
