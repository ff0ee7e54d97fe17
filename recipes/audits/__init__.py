"""Audits: roll out every policy of a finished run again, and say how many exceed the budget."""

from recipes.audits.run_audit import audit as audit
