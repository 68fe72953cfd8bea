"""Topologies of real servers; `redis_sessions.testing.topology` is their front door."""
