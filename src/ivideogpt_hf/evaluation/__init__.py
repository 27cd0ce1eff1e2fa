"""Measuring predicted video."""
