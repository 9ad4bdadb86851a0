"""The glue of the apps: settings, run folder, metrics, checkpoints, data lookup, report.

An app calls it; it never calls an app, and nothing in packages/ imports it.
"""

from apps._runner.run import Run
from apps._runner.settings import RunSettings, UserError, cli_errors, parse

__all__ = ["Run", "RunSettings", "UserError", "cli_errors", "parse"]
