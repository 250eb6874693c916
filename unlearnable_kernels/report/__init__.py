"""One HTML page about runs, and contact sheets of pictures."""

from unlearnable_kernels.report.page import write_report

__all__ = ["write_report"]
