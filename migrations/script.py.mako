"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    op.get_context().opts["frozen"](op, "${up_revision}_${slug}.up.sql")


def downgrade() -> None:
    op.get_context().opts["frozen"](op, "${up_revision}_${slug}.down.sql")
