"""What `random_walk` walks in: `world` does the `actions`."""
