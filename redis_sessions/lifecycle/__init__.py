"""What becomes of a session, through a store: loaded, committed, listed, revoked. No HTTP."""
