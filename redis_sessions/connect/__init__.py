"""How a Redis is reached: URLs, pools, connections, and what is known of the servers."""
