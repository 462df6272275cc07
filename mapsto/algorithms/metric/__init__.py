"""The metric-based family."""
