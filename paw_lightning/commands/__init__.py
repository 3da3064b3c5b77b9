"""The commands beside fit, validate and test."""
