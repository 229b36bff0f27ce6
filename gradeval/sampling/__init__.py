"""Sampling: one draw of an estimator vectorised over many; probes of what it does; streamed statistics."""
