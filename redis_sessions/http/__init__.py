"""One connection and its session: transports, headers, and when a session is committed."""
