"""The end of the certificates of the public port, so that an alert comes before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ray.serve.metrics import Gauge

from serve_app.config.tls import read_tls

logger = logging.getLogger("ray.serve")

LOOK_EVERY_S = 60.0


class CertificateUnreadable(Exception):
    """A file holds no certificate that can be read."""


def find_certificates(environment: Mapping[str, str]) -> dict[str, Path]:
    """The files of certificates by their use; empty without TLS on the public port.

    HAProxy, and not the Router, refuses an environment that is wrong.
    """
    try:
        tls = read_tls(environment)
    except ValueError:
        return {}
    if tls is None:
        return {}
    files = {"server": tls.certificate, "client_ca": tls.client_ca}
    return {use: path for use, path in files.items() if path is not None}


def read_end(path: Path) -> float:
    """The Unix time at which the first certificate of a file ends.

    Raises:
        CertificateUnreadable: the file cannot be read, or holds no certificate.
    """
    # Only a Router whose port has TLS needs the package.
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        raise CertificateUnreadable from None
    return min(certificate.not_valid_after_utc.timestamp() for certificate in found)


class CertificateMetrics:
    """Reads the files about once a minute, because they are renewed while the Router runs."""

    def __init__(
        self, files: Mapping[str, Path], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`files` holds the files by the use of their certificates."""
        self._files = files
        self._clock = clock
        self._look_at = float("-inf")
        self._ends: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self._end = Gauge(
            "serve_app_certificate_end_seconds",
            "Unix time at which the first certificate of a file of the public port ends.",
            ("use",),
        )

    def flush(self) -> None:
        """Hand the ends to Ray; a file that cannot be read has none."""
        if self._files and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_EVERY_S
            self._ends = {}
            for use, path in self._files.items():
                self._look(use, path)
        for use, end in self._ends.items():
            self._end.set(end, {"use": use})

    def _look(self, use: str, path: Path) -> None:
        try:
            self._ends[use] = read_end(path)
            self._unreadable.discard(use)
        except CertificateUnreadable:
            if use not in self._unreadable:
                self._unreadable.add(use)
                logger.warning("%s: no certificate can be read, so its end is not known", path)
