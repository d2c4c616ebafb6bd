"""Tags, and decisions over a boundary.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_context().opts["frozen"](op, "0003_tags.up.sql")


def downgrade() -> None:
    op.get_context().opts["frozen"](op, "0003_tags.down.sql")
