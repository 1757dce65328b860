"""Migrations of the schema, in Alembic's order. `Database.migrate` runs them at the start of every command."""
