"""report.html: what an evaluation found, in one page that needs no network."""

from panda_jax.evaluation.report.page import write_report

__all__ = ["write_report"]
