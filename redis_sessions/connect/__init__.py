"""How a Redis is reached: URLs, pools, links, and what is known of the servers."""
