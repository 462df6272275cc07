"""The optimization-based family."""
