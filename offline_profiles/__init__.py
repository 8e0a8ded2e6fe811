"""Shipped profiles: jobs, schedules, error graphs and quality reports, as data."""
