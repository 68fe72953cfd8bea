"""`python -m redis_sessions.cli`."""

from redis_sessions.cli import main

if __name__ == "__main__":  # the demo's workers import this module, too
    main()
