"""The log and what follows it: events, marks, checkpoints, leases, roles.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_context().opts["frozen"](op, "0001_log.up.sql")


def downgrade() -> None:
    op.get_context().opts["frozen"](op, "0001_log.down.sql")
