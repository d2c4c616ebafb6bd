"""Import: events from elsewhere into the log, resumable and idempotent."""

from .csv_rows import EXPORTED, CsvMapping, read_csv
from .importer import ImportResult, import_lines
from .json_lines import read_json_lines
from .lines import BadLine, ImportLine

__all__ = ["EXPORTED", "BadLine", "CsvMapping", "ImportLine", "ImportResult", "import_lines", "read_csv", "read_json_lines"]
