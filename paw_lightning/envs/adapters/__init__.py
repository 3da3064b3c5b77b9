"""Environments of other packages, each imported only when a configuration names it."""
