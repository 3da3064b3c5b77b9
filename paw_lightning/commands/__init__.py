"""The subcommands that Lightning knows nothing of; each is a function ``command(words) -> exit status``."""
