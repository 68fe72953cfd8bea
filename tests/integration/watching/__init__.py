"""`RedisStore.watch`: what is told, when, and what it costs."""
