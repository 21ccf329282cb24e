"""The first schema: adapters with versions, tenants, keys, quotas, usage, audit."""

import secrets

import sqlalchemy as sa
from alembic import op

from motet_database.column_types import Int64

revision = "0001"
down_revision = None

_STRICT = {"sqlite_strict": True}
_BY_KEY = {"sqlite_strict": True, "sqlite_with_rowid": False}

_SQLITE_APPEND_ONLY = """
CREATE TRIGGER audit_{verb} BEFORE {verb} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
_POSTGRESQL_APPEND_ONLY = (
    """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
    """,
    """
    CREATE TRIGGER audit_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
    """,
)


def upgrade() -> None:
    _identity()
    _adapters()
    _tenants()
    _audit()


def _identity() -> None:
    identity = op.create_table(
        "identity",
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="identity_pk"),
        **_BY_KEY,
    )
    op.bulk_insert(identity, [{"id": secrets.token_hex(16)}])


def _adapters() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_since", Int64, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ranks", sa.Text(), nullable=False),
        sa.Column("matched", sa.Text(), nullable=False),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("num_parameters", Int64, nullable=False),
        sa.Column("source_bytes", Int64, nullable=False),
        sa.Column("image_bytes", Int64, nullable=False),
        sa.Column("weights_sha256", sa.Text()),
        sa.Column("weights_bytes", Int64),
        sa.Column("checked", Int64),
        sa.CheckConstraint(
            "state IN ('live', 'quarantined', 'orphaned')", name=op.f("blobs_state")
        ),
        sa.PrimaryKeyConstraint("digest", name="blobs_pk"),
        **_BY_KEY,
    )
    op.create_index("blobs_by_weights", "blobs", ["weights_sha256"])
    op.create_index("blobs_by_checked", "blobs", ["checked"])
    op.create_table(
        "adapters",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("current", Int64, nullable=False),
        sa.Column("last_number", Int64, nullable=False),
        sa.Column("created", Int64, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="adapters_pk"),
        **_BY_KEY,
    )
    op.create_table(
        "versions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", Int64, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created", Int64, nullable=False),
        sa.Column("expires_at", Int64),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "number", name="versions_pk"),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="versions_digest_fk"),
        sa.ForeignKeyConstraint(
            ["tenant", "name"], ["adapters.tenant", "adapters.name"], name="versions_tenant_fk"
        ),
        **_BY_KEY,
    )
    op.create_index("versions_by_digest", "versions", ["digest"])
    op.create_index("versions_by_expiry", "versions", ["expires_at"])


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_since", Int64, nullable=False),
        sa.Column("created", Int64, nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'suspended', 'deleted')", name=op.f("tenants_state")
        ),
        sa.PrimaryKeyConstraint("id", name="tenants_pk"),
        **_BY_KEY,
    )
    not_deleted = sa.text("state <> 'deleted'")
    op.create_index(
        "tenants_by_name",
        "tenants",
        ["name"],
        unique=True,
        sqlite_where=not_deleted,
        postgresql_where=not_deleted,
    )
    op.create_table(
        "keys",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created", Int64, nullable=False),
        sa.Column("expires_at", Int64),
        sa.Column("last_used", Int64),
        sa.PrimaryKeyConstraint("digest", name="keys_pk"),
        sa.UniqueConstraint("id", name="keys_id_uq"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name="keys_tenant_fk"),
        **_BY_KEY,
    )
    op.create_index("keys_by_tenant", "keys", ["tenant"])
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("max_adapters", Int64),
        sa.Column("max_bytes", Int64),
        sa.Column("max_rank", Int64),
        sa.Column("requests_per_minute", Int64),
        sa.Column("tokens_per_minute", Int64),
        sa.Column("max_concurrent", Int64),
        sa.PrimaryKeyConstraint("tenant", name="quotas_pk"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name="quotas_tenant_fk"),
        **_BY_KEY,
    )
    op.create_table(
        "usage",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("hour", Int64, nullable=False),
        sa.Column("requests", Int64, nullable=False),
        sa.Column("prompt_tokens", Int64, nullable=False),
        sa.Column("completion_tokens", Int64, nullable=False),
        sa.Column("uploaded_bytes", Int64, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "adapter", "hour", name="usage_pk"),
        **_BY_KEY,
    )
    op.create_index("usage_by_hour", "usage", ["hour"])


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", Int64, autoincrement=True, nullable=False),
        sa.Column("at", Int64, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="audit_pk"),
        sqlite_autoincrement=True,
        **_STRICT,
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "id"])
    if op.get_context().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(_SQLITE_APPEND_ONLY.format(verb=verb))
    else:
        for statement in _POSTGRESQL_APPEND_ONLY:
            op.execute(statement)
