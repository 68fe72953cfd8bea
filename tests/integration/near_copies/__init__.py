"""Near copies: what is kept, for how long it is served, and what removes it."""
