"""Certificates made for a test by `openssl`, and what the tests of TLS share."""
import contextlib
import os
import ssl
import subprocess
import tempfile

from harness import check, need_program

CONFIG = """
[ca]
default_ca = one
[one]
dir = {folder}/{name}.ca
new_certs_dir = {folder}/{name}.ca
database = {folder}/{name}.ca/index
serial = {folder}/{name}.ca/serial
default_md = sha256
default_crl_days = 30
policy = any
unique_subject = no
x509_extensions = none
copy_extensions = copy
[none]
basicConstraints = critical,CA:FALSE
[authority]
basicConstraints = critical,CA:TRUE
[any]
commonName = supplied
"""


def openssl(*arguments, input=b"", fails=False):
    need_program("openssl")
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, input=input, timeout=60)
    check(fails or done.returncode == 0, "openssl %s: %s", " ".join(map(str, arguments)), done.stderr.decode(errors="replace"))
    return (done.stdout + done.stderr).decode(errors="replace")


class Folder:
    """Certificates in a folder: `folder.authority("ca")`, `folder.sign("ca", "server", "DNS:localhost")`."""

    def __init__(self, path):
        self.path = path

    def __call__(self, name):
        return os.path.join(self.path, name)

    def strangers(self):
        """Certificates that whoever trusts `ca` and asks for localhost does not take, and why."""
        self.authority("other")
        self.sign("other", "unknown", "DNS:localhost")
        self.sign("ca", "elsewhere", "DNS:elsewhere.test")
        self.sign("ca", "late", "DNS:localhost", end="20210101000000Z")
        return {"unknown": "unable to get local issuer certificate", "elsewhere": "hostname mismatch",
                "late": "certificate has expired"}

    def pair(self, name):
        return "%s,%s" % (self(name + ".pem"), self(name + ".key"))

    def authority(self, name):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=" + name,
                "-keyout", self(name + ".key"), "-out", self(name + ".pem"))
        self.become_authority(name)

    def become_authority(self, name):
        os.mkdir(self(name + ".ca"))
        with open(self(name + ".ca/index"), "w"):
            pass
        with open(self(name + ".ca/serial"), "w") as file:
            file.write("1000\n")
        with open(self(name + ".cnf"), "w") as file:
            file.write(CONFIG.format(folder=self.path, name=name))

    def sign(self, authority, name, alt, start="20200101000000Z", end="20990101000000Z", more=()):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name, "-addext",
                "subjectAltName=" + alt, "-keyout", self(name + ".key"), "-out", self(name + ".csr"))
        openssl("ca", "-batch", "-notext", "-config", self(authority + ".cnf"), "-cert", self(authority + ".pem"), "-keyfile",
                self(authority + ".key"), "-in", self(name + ".csr"), "-out", self(name + ".pem"), "-startdate", start, "-enddate", end, *more)
        os.chmod(self(name + ".key"), 0o600)

    def revoke(self, authority, name):
        openssl("ca", "-config", self(authority + ".cnf"), "-cert", self(authority + ".pem"), "-keyfile", self(authority + ".key"),
                "-revoke", self(name + ".pem"))

    def crl(self, authority, *options):
        """What the authority has revoked by now, in PEM."""
        openssl("ca", "-config", self(authority + ".cnf"), "-cert", self(authority + ".pem"), "-keyfile", self(authority + ".key"),
                "-gencrl", "-out", self(authority + ".crl.new"), *options)
        with open(self(authority + ".crl.new"), "rb") as file:
            return file.read()

    def write(self, name, data):
        """At once, as `mv` does."""
        with open(self(name + ".part"), "wb") as file:
            file.write(data)
        os.replace(self(name + ".part"), self(name))
        return self(name)

    def ocsp(self, authority, name, *options):
        """An answer of the authority about a certificate, as its responder would give it."""
        openssl("ocsp", "-issuer", self(authority + ".pem"), "-cert", self(name + ".pem"), "-reqout", self(name + ".req"))
        return openssl("ocsp", "-index", self(authority + ".ca/index"), "-rsigner", self(authority + ".pem"), "-rkey",
                       self(authority + ".key"), "-CA", self(authority + ".pem"), "-reqin", self(name + ".req"), "-respout",
                       self(name + ".pem.ocsp"), *options)

    def serve(self, server, name):
        """An http.server that speaks TLS from here on, with that certificate. A handshake that fails is no noise."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self(name + ".pem"), self(name + ".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None

    def trusting(self):
        return ssl.create_default_context(cafile=self("ca.pem"))


@contextlib.contextmanager
def folder():
    """`ca`, `server` (localhost, 127.0.0.1), and whatever is made beside them."""
    with tempfile.TemporaryDirectory(prefix="penstock-tls-") as path:
        made = Folder(path)
        made.authority("ca")
        made.sign("ca", "server", "DNS:localhost,IP:127.0.0.1")
        yield made
