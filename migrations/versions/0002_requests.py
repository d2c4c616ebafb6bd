"""Request ids, and appends that are never ambiguous.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_context().opts["frozen"](op, "0002_requests.up.sql")


def downgrade() -> None:
    op.get_context().opts["frozen"](op, "0002_requests.down.sql")
