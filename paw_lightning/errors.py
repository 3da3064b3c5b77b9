"""The one error for a setting that cannot work."""


class SettingsError(ValueError):
    """A setting was refused; the message reads "KEY is ...; wanted ..." and the command line prints it as one line."""
