"""Import and export: events from elsewhere into the log and out of it again, resumable; an import is idempotent."""

from .cloudevent_lines import read_cloudevents
from .csv_rows import EXPORTED, CsvMapping, read_csv
from .exporter import FORMATS, ExportFormat, ExportResult, ResumePoint, export_events, resume_point
from .importer import ImportResult, import_lines
from .json_lines import read_json_lines
from .lines import BadLine, ImportLine

__all__ = [
    "EXPORTED",
    "FORMATS",
    "BadLine",
    "CsvMapping",
    "ExportFormat",
    "ExportResult",
    "ImportLine",
    "ImportResult",
    "ResumePoint",
    "export_events",
    "import_lines",
    "read_cloudevents",
    "read_csv",
    "read_json_lines",
    "resume_point",
]
