"""Subcommands of the command line that Lightning does not run."""
