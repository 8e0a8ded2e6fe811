"""Caching: one executor, and the policies that decide."""
