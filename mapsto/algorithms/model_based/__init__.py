"""Learners that read the support set and answer by a forward pass: memory, attention, context."""
