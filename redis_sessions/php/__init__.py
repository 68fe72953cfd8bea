"""PHP's sessions: read and written as PHP does it."""
