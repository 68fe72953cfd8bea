"""What a session is: its token, its sealed record, its data. No I/O, no HTTP."""
