"""Measurements that the project promises bounds for."""
