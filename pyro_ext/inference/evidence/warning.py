"""The warning of all estimators of evidence."""

__all__ = ["EvidenceWarning"]


class EvidenceWarning(UserWarning):
    """An estimate was computed, but it should not be relied on."""
