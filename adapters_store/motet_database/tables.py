"""Every table. `migrations/` makes them; a test holds the two equal.

Times are unix seconds, sizes bytes. A tenant is named by its id here, never by its name, which may
be changed. What may change of a row is said; the rest is written once.
"""

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    text,
)

from motet_database.column_types import Bytes, Int64, JsonText

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "uq": "%(table_name)s_%(column_0_name)s_uq",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)

identity = Table(
    "identity",
    metadata,
    # One row, made with the schema. A directory of adapters remembers it: swept on the word of
    # another database, it would be emptied.
    Column("id", Text, primary_key=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# --- adapters: name -> current version -> blob -------------------------------------------------

blobs = Table(
    "blobs",
    metadata,
    # SHA-256 (64 hex digits) over config and weights: `motet_adapters.source.digest_of`.
    Column("digest", Text, primary_key=True),
    # live: served. quarantined: failed its digest, refused until it is uploaded again.
    # orphaned: no version names it; its bytes go once nothing can be using them. Changes.
    Column("state", Text, nullable=False),
    Column("state_since", Int64, nullable=False),
    Column("kind", Text, nullable=False),
    Column("ranks", JsonText, nullable=False),  # distinct, sorted
    Column("matched", JsonText, nullable=False),  # projection -> number of modules
    Column("warnings", JsonText, nullable=False),  # sentences for the uploader
    Column("num_parameters", Int64, nullable=False),
    Column("source_bytes", Int64, nullable=False),  # both files
    Column("image_bytes", Int64, nullable=False),  # changes with base and dtype
    # Of the weights file alone; NULL until the scrub has read a blob of the older format.
    Column("weights_sha256", Text),
    Column("weights_bytes", Int64),
    Column("checked", Int64),  # when the scrub last found it intact; changes
    # Positions that it puts before every prompt.
    Column("num_virtual_tokens", Int64, nullable=False, server_default="0"),
    # aLoRA: active from this sequence of token ids on. Empty: from the first token.
    Column("invocation_tokens", JsonText, nullable=False, server_default="[]"),
    # Path of a module -> relative error of its update, where it was cut to a rank.
    Column("lossy_errors", JsonText, nullable=False, server_default="{}"),
    CheckConstraint("state IN ('live', 'quarantined', 'orphaned')", "state"),
    Index("blobs_by_weights", "weights_sha256"),
    Index("blobs_by_checked", "checked"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

adapters = Table(
    "adapters",
    metadata,
    # No foreign key: the store serves tenants it is told of, also "default", which has no row.
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("current", Int64, nullable=False),  # the version served; changes
    Column("last_number", Int64, nullable=False),  # given to a version so far; changes
    Column("created", Int64, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

versions = Table(
    "versions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("number", Int64, primary_key=True),  # 1, 2, ... within the name
    Column("digest", Text, ForeignKey("blobs.digest"), nullable=False),
    Column("created", Int64, nullable=False),
    Column("expires_at", Int64),
    Column("tags", JsonText, nullable=False),  # distinct texts, sorted
    ForeignKeyConstraint(["tenant", "name"], ["adapters.tenant", "adapters.name"]),
    Index("versions_by_digest", "digest"),
    Index("versions_by_expiry", "expires_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# --- tenants -------------------------------------------------------------------------------------

tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),  # never used again, also after deletion
    Column("name", Text, nullable=False),  # changes
    # suspended: keeps everything, may do nothing. deleted: the row alone is left. Changes.
    Column("state", Text, nullable=False),
    Column("state_since", Int64, nullable=False),
    Column("created", Int64, nullable=False),
    CheckConstraint("state IN ('active', 'suspended', 'deleted')", "state"),
    # A deleted tenant's name is free again.
    Index(
        "tenants_by_name",
        "name",
        unique=True,
        sqlite_where=text("state <> 'deleted'"),
        postgresql_where=text("state <> 'deleted'"),
    ),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

keys = Table(
    "keys",
    metadata,
    Column("digest", Bytes, primary_key=True),  # SHA-256 of the key
    Column("id", Text, nullable=False, unique=True),
    Column("tenant", Text, ForeignKey("tenants.id")),  # NULL: the operator's, opens /admin
    Column("scopes", JsonText, nullable=False),  # of "infer", "upload", "admin"; sorted
    Column("label", Text, nullable=False),  # the owner's note; may be empty
    Column("created", Int64, nullable=False),
    Column("expires_at", Int64),  # changes: rotation ends the old key after a grace
    Column("last_used", Int64),  # to about a minute; changes
    Index("keys_by_tenant", "tenant"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

quotas = Table(
    "quotas",
    metadata,
    # A missing row or a NULL: the server's default for that limit. All change.
    Column("tenant", Text, ForeignKey("tenants.id"), primary_key=True),
    Column("max_adapters", Int64),
    Column("max_bytes", Int64),  # source_bytes of all versions
    Column("max_rank", Int64),
    Column("requests_per_minute", Int64),
    Column("tokens_per_minute", Int64),
    Column("max_concurrent", Int64),  # requests under way
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    metadata,
    # Added to, never taken from. Stays when a tenant is deleted.
    Column("tenant", Text, primary_key=True),
    Column("adapter", Text, primary_key=True),  # "": the base model
    Column("hour", Int64, primary_key=True),  # its first second
    Column("requests", Int64, nullable=False),
    Column("prompt_tokens", Int64, nullable=False),
    Column("completion_tokens", Int64, nullable=False),
    Column("uploaded_bytes", Int64, nullable=False),
    Index("usage_by_hour", "hour"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# --- every change --------------------------------------------------------------------------------

audit = Table(
    "audit",
    metadata,
    # Append-only, by triggers. In the order of commits: all writers write one after another.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("at", Int64, nullable=False),
    Column("actor", Text, nullable=False),  # "key:ID", "operator", "cli", "store"
    Column("tenant", Text),  # whom it is about
    Column("action", Text, nullable=False),  # "adapter.published", "tenant.suspended", ...
    Column("subject", Text, nullable=False),  # adapter name, key id, digest; "": the tenant
    Column("detail", JsonText, nullable=False),  # an object
    Index("audit_by_tenant", "tenant", "id"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
