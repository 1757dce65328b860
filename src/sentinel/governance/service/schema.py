"""The tables. Amounts are integers, moments milliseconds since the epoch (UTC), days dates (UTC).

A change here needs a migration beside it (`migrations/versions/`); a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

AMOUNTS = ("requests", "input_tokens", "output_tokens", "cost_micro_usd")
"""What is counted, in the ledger and in balances: the columns of that name."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)


def _amounts() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in AMOUNTS]


plans = Table(
    "plans",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    # None: not limited.
    Column("requests", BigInteger),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("period", String(10), nullable=False),
    # Globs, one a line; None: all models; empty: none.
    Column("models", Text),
    Column("created_ms", BigInteger, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("email", String(320), nullable=False),
    # What two spellings of one address have in common (directory.email_key).
    Column("email_key", String(640), nullable=False, unique=True),
    Column("external_id", String(255), unique=True),
    Column("name", String(255)),
    Column("team", String(100)),
    Column("plan_id", ForeignKey("plans.id"), nullable=False, index=True),
    Column("disabled", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(100)),
    # SHA-256 of the key, which nobody has but its user. 256 random bits need no salt, and no slow hash.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    # Its beginning, by which people tell keys apart.
    Column("prefix", String(40), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("used_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)

ledger = Table(
    "ledger",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),
    # Empty: the report did not say.
    Column("model", String(256), primary_key=True),
    *_amounts(),
)

# What a user has spent in one period, so that nobody has to add up the ledger. A row that is not of the user's current
# period counts for nothing, and is made anew from the ledger. Whatever is booked writes it, so of its own period it is
# right, also when that comes back.
balances = Table(
    "balances",
    metadata,
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("period", String(10), nullable=False),
    # The first day of the period; the earliest of all days where it never ends.
    Column("start", Date, nullable=False),
    *_amounts(),
)

# The answers to reports by their Idempotency-Key.
reports = Table(
    "reports",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False, index=True),
)

# What proxies are to be told, in order.
notices = Table(
    "notices",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    # As proxies know the user.
    Column("identity", String(255), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# How far each proxy has been told.
proxies = Table(
    "proxies",
    metadata,
    Column("url", String(500), primary_key=True),
    Column("told", BigInteger, nullable=False),
)

Index("ix_ledger_day", ledger.c.day)
