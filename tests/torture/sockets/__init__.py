"""Open sockets over several uvicorn processes: `python -m tests.torture sockets`.

- `application` is what each process serves; `fleet` starts the processes, `places` the servers.
- `clients` opens WebSockets and event streams, and notes when each of them has ended.
- `ends`, `tabs`, `cut`, `failover`, `idle` and `churn` are the trials; `figures` prints them.
"""
