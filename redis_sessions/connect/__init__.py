"""How a Redis is reached: URLs, credentials, TLS, and the connections themselves."""
