"""What Alembic runs for a migration: in the connection, and so in the transaction, that it was given."""

from alembic import context

from sentinel.governance.service.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes tables by copying them.
    render_as_batch=True,
)
context.run_migrations()
