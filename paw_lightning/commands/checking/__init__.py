"""What ``paw-lightning check`` looks at, one file for each question."""
