"""An application of the shape of the full-stack FastAPI template's back end, and its changes.

`app/` has the template's names of files, functions and parameters, and bodies of our own: a dict in
place of the database, and tokens that `hmac` signs. `changes` puts docs/migration/
full-stack-template.md into effect on a copy of it.
"""
