"""The example for Fluent Bit: its keys exist, and it reads what a Router writes.

Where a `fluent-bit` is on the PATH, it really ships a log to a server with TLS. No registry that
the tests use has one, so this is skipped there.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.audit.conftest import SMALL_FILE, Place, make_record, place

__all__ = ["place"]

PATH = Path(__file__).parents[2] / "cluster/fluent-bit/fluent-bit.yaml"
CONFIG = yaml.safe_load(PATH.read_text())
[INPUT] = CONFIG["pipeline"]["inputs"]
[OUTPUT] = CONFIG["pipeline"]["outputs"]
[PARSER] = CONFIG["parsers"]
AUDIT = "/var/log/serve-app/audit"

# From the tables of options in the source of Fluent Bit 5.1.1 (github.com/fluent/fluent-bit):
# src/flb_config.c, src/flb_parser.c, src/flb_input.c, src/flb_output.c, src/tls/flb_tls.c,
# plugins/in_tail/tail.c, plugins/out_opensearch/opensearch.c and plugins/out_es/es.c. Looked up in
# November 2026.
SERVICE = {
    "flush", "grace", "log_level", "http_server", "http_listen", "http_port", "storage.path",
    "storage.sync", "storage.checksum", "storage.metrics", "storage.backlog.mem_limit",
    "storage.max_chunks_up",
}  # fmt: skip
PARSERS = {"name", "format", "time_key", "time_format", "time_keep"}
TAIL = {
    "name", "tag", "alias", "path", "exclude_path", "parser", "read_from_head", "refresh_interval",
    "rotate_wait", "buffer_chunk_size", "buffer_max_size", "skip_long_lines", "db", "db.sync",
    "storage.type", "storage.pause_on_chunks_overlimit",
}  # fmt: skip
OPENSEARCH_AND_ES = {
    "name", "match", "host", "port", "http_user", "http_passwd", "index", "logstash_format",
    "logstash_prefix", "suppress_type_name", "id_key", "write_operation", "buffer_size",
    "trace_error", "retry_limit", "storage.total_limit_size", "tls", "tls.verify",
    "tls.verify_hostname", "tls.ca_file", "tls.crt_file", "tls.key_file",
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "known"),
    [(CONFIG["service"], SERVICE), (PARSER, PARSERS), (INPUT, TAIL), (OUTPUT, OPENSEARCH_AND_ES)],
    ids=["service", "parser", "input", "output"],
)
def test_every_key_exists(section: dict[str, Any], known: set[str]) -> None:
    """Fluent Bit refuses or ignores a key that it does not know."""
    assert section.keys() <= known


def test_nothing_is_lost_or_sent_in_clear() -> None:
    """Chunks and positions are on disk, retries have no end, and the server is verified."""
    assert (OUTPUT["tls"], OUTPUT["tls.verify"], OUTPUT["tls.verify_hostname"]) == (True,) * 3
    assert (INPUT["storage.type"], OUTPUT["retry_limit"]) == ("filesystem", "no_limits")
    assert CONFIG["service"]["storage.path"]
    assert INPUT["parser"] == PARSER["name"]
    assert OUTPUT["match"] == INPUT["tag"]


def test_it_reads_what_a_router_writes(place: Place) -> None:
    """The files by their names, the time by its form, and the id that makes a record unique."""
    for _ in range(3):
        place.write(150, file_bytes_max=SMALL_FILE)
    read = [path for path in place.directory.iterdir() if matches(path)]
    assert {path.suffix for path in read} == {".jsonl"}
    assert {path.suffix for path in place.directory.iterdir()} > {".jsonl"}
    ids = set()
    for path in read:
        for line in path.read_bytes().splitlines():
            record = orjson.loads(line)
            ids.add(record[OUTPUT["id_key"]])
            if PARSER["time_key"] in record:
                form = PARSER["time_format"].replace("%L", "%f")
                assert datetime.strptime(record["time"], form).astimezone(UTC)
    assert len(ids) == sum(len(path.read_bytes().splitlines()) for path in read)


def matches(path: Path) -> bool:
    return fnmatch.fnmatch(f"{AUDIT}/{path.name}", INPUT["path"])


class Index(HTTPServer):
    """The part of a search server that takes bulk requests; it may be out of order."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.records: dict[str, Any] = {}
        self.works = False
        self.refused = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class IndexHandler(BaseHTTPRequestHandler):
    """Answers as OpenSearch does."""

    server: Index

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.server.works:
            self.server.refused += 1
            self.send_error(503)
            return
        assert self.path == "/_bulk"
        assert self.headers["authorization"].startswith("Basic ")
        lines = [orjson.loads(line) for line in body.splitlines() if line]
        for action, record in zip(lines[::2], lines[1::2], strict=True):
            self.server.records[action["create"]["_id"]] = record
        answer = orjson.dumps({"errors": False, "items": []})
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def index(root: Path) -> Iterator[Index]:
    server = Index(write_certificate(root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_certificate(root: Path) -> Path:
    """A certificate of 127.0.0.1 with its key, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    authority = x509.BasicConstraints(ca=True, path_length=None)
    builder = builder.add_extension(address, critical=False).add_extension(authority, critical=True)
    signed = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (root / "ca.pem").write_bytes(signed)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (root / "server.pem").write_bytes(secret + signed)
    return root / "server.pem"


@contextmanager
def fluent_bit(place: Place, output: str, port: int) -> Iterator[None]:
    """The shipped config, with the paths and the port of the test, and one of the two outputs."""
    text = PATH.read_text().replace(AUDIT, str(place.directory)).replace("9200", str(port))
    text = text.replace("/var/lib/fluent-bit", str(place.root))
    text = text.replace("/etc/fluent-bit", str(place.root))
    text = text.replace("name: opensearch", f"name: {output}")
    config = place.root / "fluent-bit.yaml"
    config.write_text(text)
    environment = {
        **os.environ,
        "OPENSEARCH_HOST": "127.0.0.1",
        "OPENSEARCH_USER": "audit",
        "OPENSEARCH_PASSWORD": "secret",
    }
    command = ["fluent-bit", "-c", str(config)]
    subprocess.run([*command, "--dry-run"], env=environment, check=True, capture_output=True)
    with (place.root / "fluent-bit.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()  # without a chance to save anything
            process.wait()


def wait_until(condition: Any, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read_hashes(place: Place) -> set[str]:
    lines = [line for path in place.files() for line in path.read_bytes().splitlines()]
    return set(re.findall(r'"hash":"([0-9a-f]{64})"', b"\n".join(lines).decode()))


@pytest.mark.skipif(shutil.which("fluent-bit") is None, reason="no fluent-bit is installed")
@pytest.mark.parametrize("output", ["opensearch", "es"])
def test_every_record_arrives_once(place: Place, output: str) -> None:
    """Though the server is out of order at first, and Fluent Bit is killed meanwhile."""
    log = place.open(content=["prompts"], fsync_s=0.05)
    log.start()
    for number in range(300):
        log.add(make_record(number))
    with index(place.root) as server:
        with fluent_bit(place, output, server.server_port):
            wait_until(lambda: server.refused)
        for number in range(300):
            log.add(make_record(number))
        log._writer.stop()
        server.works = True
        with fluent_bit(place, output, server.server_port):
            wait_until(lambda: server.records.keys() >= read_hashes(place))
    assert server.records.keys() == read_hashes(place)
    calls = [record for record in server.records.values() if record["kind"] == "call"]
    assert len(calls) == 600
    assert {call["@timestamp"][:19] for call in calls} >= {"2027-01-15T08:00:00"}
