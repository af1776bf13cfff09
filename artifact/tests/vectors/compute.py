"""Computes the vectors of docs/artifact-format.md from its text alone: Python's own hashlib and hmac, the openssl command for
the AES block, and Galois multiplication below. Without arguments it prints them; with a file it compares, and fails unless the
file says the same."""

import hashlib
import hmac
import json
import struct
import subprocess
import sys

CHUNK = 524288


def aes(mode, key, data, *more):
    command = ["openssl", "enc", "-aes-256-" + mode, "-nopad", "-K", key.hex(), *more]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def ctr(key, counter, data):
    return aes("ctr", key, data, "-iv", counter.hex())


class Ghash:
    """NIST SP 800-38D, section 6.4, by the table of one byte's multiples and Horner's rule over the bytes of a block."""

    def __init__(self, h):
        self.table = [self.multiply(byte << 120, int.from_bytes(h, "big")) for byte in range(256)]
        self.reduced = [self.shifted(byte) for byte in range(256)]

    @staticmethod
    def multiply(x, y):
        z = 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                z ^= y
            y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
        return z

    @staticmethod
    def shifted(byte):
        for _ in range(8):
            byte = byte >> 1 ^ (0xE1 << 120 if byte & 1 else 0)
        return byte

    def times_h(self, x):
        z = 0
        for byte in x.to_bytes(16, "little"):
            z = z >> 8 ^ self.reduced[z & 0xFF] ^ self.table[byte]
        return z

    def of(self, data):
        y = 0
        for at in range(0, len(data), 16):
            y = self.times_h(y ^ int.from_bytes(data[at : at + 16].ljust(16, b"\0"), "big"))
        return y


def gcm(key, nonce, aad, plaintext):
    """Ciphertext and tag."""
    ghash = Ghash(aes("ecb", key, bytes(16)))
    ciphertext = ctr(key, nonce + struct.pack(">I", 2), plaintext)
    padded = aad + bytes(-len(aad) % 16) + ciphertext + bytes(-len(ciphertext) % 16)
    digest = ghash.of(padded + struct.pack(">QQ", len(aad) * 8, len(ciphertext) * 8))
    tag = ctr(key, nonce + struct.pack(">I", 1), digest.to_bytes(16, "big"))
    return ciphertext + tag


def sha256(data):
    return hashlib.sha256(data).digest()


def hmac256(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def stream(label, length):
    """Test data: SHA-256 of the label and a counter, one after the other."""
    blocks = (sha256(label + struct.pack("<I", i)) for i in range((length + 31) // 32))
    return b"".join(blocks)[:length]


def secret(label):
    return sha256(b"votive test " + label)


def image():
    first = stream(b"first", CHUNK)
    return first + bytes(CHUNK) + first + stream(b"last", 4096)


def chunks():
    whole = image()
    whole += bytes(-len(whole) % CHUNK)
    return [whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK)]


def manifest(method, root, scope, names):
    head = b"votiveM\x01" + bytes([method, 0, 0, 0]) + struct.pack("<IQ", CHUNK, len(image()))
    zeros = sum(1 << i for i, chunk in enumerate(chunks()) if not any(chunk))
    return head + root + scope + bytes([zeros]) + b"".join(names)


def artifact(name, identity, key, wrapped, data_key, nonce, keys, config):
    table = struct.pack("<II", len(keys), len(config)) + b"".join(keys) + config
    sealed = nonce + gcm(data_key, nonce, name + identity, table)
    lengths = struct.pack("<HHHHI", len(identity), len(key), len(wrapped), 0, len(sealed))
    return b"votiveA\x01" + name + lengths + identity + key + wrapped + sealed


def shown(manifest, keys, ciphertexts):
    """One method's vectors, and its artifact."""
    identity = b"arn:aws:lambda:eu-north-1:123456789012:function:thumbnail:7"
    data_key, nonce = secret(b"data key"), secret(b"nonce")[:12]
    config = b'{"Cmd":["app.handler"]}'
    record = artifact(sha256(manifest), identity, b"key/1", b"wrapped", data_key, nonce, keys, config)
    return {
        "keys": [key.hex() for key in keys],
        "ciphertext_starts": [ciphertext[:32].hex() for ciphertext in ciphertexts],
        "ciphertext_ends": [ciphertext[-32:].hex() for ciphertext in ciphertexts],
        "names": [sha256(ciphertext).hex() for ciphertext in ciphertexts],
        "manifest": manifest.hex(),
        "manifest_id": sha256(manifest).hex(),
        "artifact": record.hex(),
    }


def convergent():
    salt = secret(b"salt")
    stored = [chunk for chunk in chunks() if any(chunk)]
    keys = [hmac256(salt, b"k" + chunk) for chunk in stored]
    ciphertexts = [ctr(key, bytes(16), chunk) for key, chunk in zip(keys, stored)]
    names = [sha256(ciphertext) for ciphertext in ciphertexts]
    root, scope = secret(b"root")[:16], secret(b"salt id")[:16]
    return shown(manifest(1, root, scope, names), keys, ciphertexts)


def service_key():
    root, scope = secret(b"root")[:16], secret(b"artifact id")[:16]
    key = hmac256(secret(b"upload key"), b"votive image key 1" + scope + sha256(image()))
    ciphertexts = []
    for i, chunk in enumerate(chunks()):
        if any(chunk):
            index = struct.pack("<I", i)
            ciphertexts.append(gcm(key, bytes(8) + index, scope + index, chunk))
    names = [sha256(ciphertext) for ciphertext in ciphertexts]
    return shown(manifest(2, root, scope, names), [key], ciphertexts)


def main():
    # NIST's GCM test case 14 (256-bit key of zeros, one block of zeros): the multiplication above is right.
    expected = "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    assert gcm(bytes(32), bytes(12), b"", bytes(16)).hex() == expected
    vectors = {
        "image_sha256": sha256(image()).hex(),
        "convergent": convergent(),
        "service_key": service_key(),
    }
    if len(sys.argv) == 1:
        json.dump(vectors, sys.stdout, indent=1)
        print()
    else:
        with open(sys.argv[1]) as file:
            sys.exit(json.load(file) != vectors)


main()
