"""The mistakes that mapsto reports to its user."""


class MapstoError(Exception):
    """A mistake in the user's input: one sentence that names the culprit and the remedy.

    The command line prints the sentence alone, without a traceback, and exits with status 2.
    """


class DataError(MapstoError):
    """A data file or folder that is missing, damaged, or not what it should be."""
