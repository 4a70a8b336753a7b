"""A MySQL server as far as its login: for the plugins of MySQL that MariaDB does not have.

`login(link, ...)` plays one connection phase the way the protocol documentation has it and tells
whether the client proved the password.
"""
import hashlib
import subprocess

NONCE = bytes(range(33, 53))


def packet(number, payload):
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def read_packet(link):
    """The number and the payload of the next packet."""
    head = link.read(4)
    if len(head) < 4:
        raise ConnectionError("the client is gone")
    return head[3], link.read(int.from_bytes(head[:3], "little"))


def greeting(plugin, version=b"8.0.36-peer"):
    capabilities = 0x00080000 | 0x0003F7DF & ~0x800
    return (b"\x0a" + version + b"\0" + (7).to_bytes(4, "little") + NONCE[:8] + b"\0"
            + (capabilities & 0xFFFF).to_bytes(2, "little") + b"\x2d\x02\0"
            + (capabilities >> 16).to_bytes(2, "little") + b"\x15" + bytes(10)
            + NONCE[8:] + b"\0" + plugin.encode() + b"\0")


def parse_response(payload):
    """User, proof, database and plugin of a client's first packet."""
    rest = payload[32:]
    user, rest = rest.split(b"\0", 1)
    proof, rest = rest[1:1 + rest[0]], rest[1 + rest[0]:]
    database, rest = rest.split(b"\0", 1)
    return user.decode(), proof, database.decode(), rest.rstrip(b"\0").decode()


def xor(data, key):
    return bytes(byte ^ key[at % len(key)] for at, byte in enumerate(data))


def caching_sha2_proof(password, nonce=NONCE):
    once = hashlib.sha256(password).digest()
    twice = hashlib.sha256(once).digest()
    return xor(once, hashlib.sha256(twice + nonce).digest())


def decrypt(key, data):
    return subprocess.run(["openssl", "pkeyutl", "-decrypt", "-inkey", key, "-pkeyopt",
                           "rsa_padding_mode:oaep"], input=data, capture_output=True).stdout


def public_key(key):
    return subprocess.run(["openssl", "pkey", "-in", key, "-pubout"], capture_output=True,
                          check=True).stdout


OK = b"\0\0\0\2\0\0\0"
DENIED = b"\xff\x15\x04#28000Access denied"


def finish(link, number, good):
    link.send(packet(number, OK if good else DENIED))
    return good


def full_proof(link, number, password, key):
    """Everything after the request for full authentication: the key is asked for, the password
    comes back under it."""
    number, asked = read_packet(link)
    assert asked in (b"\1", b"\2"), asked
    link.send(packet(number + 1, b"\1" + public_key(key)))
    number, secret = read_packet(link)
    return finish(link, number + 1, xor(decrypt(key, secret), NONCE) == password + b"\0")


def login(link, password, key, way):
    """`way`: fast, full, wrong, switched (to caching_sha2), sha256 or switched to nonsense."""
    switched = way in ("switched", "nonsense")
    first = "mysql_native_password" if switched else "caching_sha2_password"
    link.send(packet(0, greeting("sha256_password" if way == "sha256" else first)))
    number, payload = read_packet(link)
    _, proof, _, _ = parse_response(payload)
    if way == "sha256":
        assert proof == b"\1", proof
        link.send(packet(number + 1, b"\1" + public_key(key)))
        number, secret = read_packet(link)
        return finish(link, number + 1, xor(decrypt(key, secret), NONCE) == password + b"\0")
    if switched:
        plugin = b"caching_sha2_password" if way == "switched" else b"nonsense"
        link.send(packet(number + 1, b"\xfe" + plugin + b"\0" + NONCE + b"\0"))
        number, proof = read_packet(link)
    if proof != caching_sha2_proof(password):
        return finish(link, number + 1, False)
    if way in ("fast", "switched"):
        link.send(packet(number + 1, b"\1\3"))
        return finish(link, number + 2, True)
    link.send(packet(number + 1, b"\1\4"))
    return full_proof(link, number + 2, password, key)


def serve_queries(link, answers):
    """Answers each query with the next list of payloads; ends when the client does."""
    for answer in answers:
        number, payload = read_packet(link)
        if payload[:1] != b"\3":
            break
        for at, part in enumerate(answer):
            link.send(part if isinstance(part, str) else packet(number + 1 + at, part))

