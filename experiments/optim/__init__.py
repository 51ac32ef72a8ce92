"""Optimisers beyond torch's."""
