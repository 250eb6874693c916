"""HTML pages about runs and about measured rows, and contact sheets of pictures."""

from unlearnable_kernels.report.page import write_report
from unlearnable_kernels.report.results_page import is_results, write_results_report

__all__ = ["is_results", "write_report", "write_results_report"]
