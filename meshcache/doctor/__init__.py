"""Examines what an instance on this host would meet: the host, Redis, the mesh.  The command ``meshcache doctor`` shows it.

Each check is one function that takes the :class:`~.patient.Patient` and returns one :class:`~.finding.Finding`: what was
seen, and what to do.  Nothing here knows a terminal, and nothing here ends up with a secret in a finding.
"""

from __future__ import annotations

from .examination import CHECKS, Check, examine
from .finding import Finding, Verdict
from .patient import Patient

__all__ = ["CHECKS", "Check", "Finding", "Patient", "Verdict", "examine"]
