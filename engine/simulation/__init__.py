"""Deterministic simulation: schedules, time, faults and disks under a test's control."""
