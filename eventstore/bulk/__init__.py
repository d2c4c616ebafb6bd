"""Import: events from elsewhere into the log, resumable and idempotent."""

from .importer import ImportResult, import_lines
from .lines import BadLine, CsvMapping, ImportLine, read_csv, read_json_lines

__all__ = ["BadLine", "CsvMapping", "ImportLine", "ImportResult", "import_lines", "read_csv", "read_json_lines"]
