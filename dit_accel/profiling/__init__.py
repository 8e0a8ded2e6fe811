"""Offline work: trajectories and rollouts become an error graph, the graph becomes schedules."""
