"""Compile an architecture to a training artifact: one plain graph that clips per example, with its certificate."""
