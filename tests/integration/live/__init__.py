"""WebSockets and streams behind a real server, which end with their session."""
