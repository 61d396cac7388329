"""Checks a model file against its proof and a trust file, from docs/spec/formats.md and
proof.schema.json (which lies beside it and names all fields in their order) alone.

    python verify_proof.py MODEL PROOF TRUST

Shares no code with Milepost; needs `cryptography` and `blake3`.  Prints accepted (exit code 0),
rejected, mismatch, inconsistent (1) or unknown (3) and why, as `milepost verify` does.
It relies on the signed state for what the ledger's rules imply, such as a verdict's coverage.
"""

import base64
import hashlib
import json
import math
import struct
import sys
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TYPES = json.loads(Path(__file__).with_name("proof.schema.json").read_text())["$defs"]
Y8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
Y8_NEGATIVE = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
P = 2**255 - 19
ORDER_8 = (int.from_bytes(bytes.fromhex(y), "little") for y in (Y8, Y8_NEGATIVE))
SMALL = {0, 1, P - 1, P, P + 1, *ORDER_8}  # y of keys that sign anything
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "F32": 4, "F64": 8}


class Answer(Exception):
    """The answer, in one word, and the reason."""


def need(condition, why, answer="inconsistent"):
    if not condition:
        raise Answer(answer, why)


def parse(data):
    def unique(pairs):
        need(len(dict(pairs)) == len(pairs), "a name stands twice in a JSON object", "unknown")
        return dict(pairs)

    return json.loads(data.decode(), object_pairs_hook=unique)


def pack(name, value):
    """The canonical MessagePack bytes of a value of a type of the schema, or ValueError."""
    return encode({"$ref": f"#/$defs/{name}"}, value)


def head(count, *forms):
    """The shortest of the forms (limit, first byte, layout) that holds a length or number."""
    code, form = next((code, form) for limit, code, form in forms if count < limit)
    return bytes([code]) + struct.pack(form, count) if form else bytes([code | count])


def encode(schema, value):
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    if schema.get("type") == "array" and type(value) is list:
        parts = [encode(schema["items"], each) for each in value]
    elif name == "uint" and type(value) is int and 0 <= value < 2**63:
        wide = [(2**8, 0xCC, ">B"), (2**16, 0xCD, ">H"), (2**32, 0xCE, ">I"), (2**63, 0xCF, ">Q")]
        return head(value, (128, 0, ""), *wide)
    elif name == "bytes" and type(value) is str and bytes.fromhex(value).hex() == value:
        wide = [(2**8, 0xC4, ">B"), (2**16, 0xC5, ">H"), (2**32, 0xC6, ">I")]
        return head(len(value) // 2, *wide) + bytes.fromhex(value)
    elif name == "text" and type(value) is str and value.isascii():
        wide = [(2**8, 0xD9, ">B"), (2**16, 0xDA, ">H"), (2**32, 0xDB, ">I")]
        return head(len(value), (32, 0xA0, ""), *wide) + value.encode()
    elif type(value) is dict and value.keys() == TYPES[name].get("properties", {}).keys():
        parts = [encode(field, value[key]) for key, field in TYPES[name]["properties"].items()]
    else:
        raise ValueError(f"not a {name or 'list'}")
    wide = [(2**16, 0xDC, ">H"), (2**32, 0xDD, ">I")]
    return head(len(parts), (16, 0x90, ""), *wide) + b"".join(parts)


def digest(kind, *parts):
    return hashlib.sha256(b"milepost/v1/" + kind + b"\0" + b"".join(parts)).digest()


def is_signed(key, signature, message):
    key, signature = bytes.fromhex(key), bytes.fromhex(signature)
    if len(key) != 32 or int.from_bytes(key, "little") % 2**255 in SMALL:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def hash_ids(ids):
    return digest(b"validators", *map(bytes.fromhex, ids)).hex()


def check_final(header, certificate, ids, network):
    """F20: more than two thirds of the validators `ids` signed the header."""
    need(ids == sorted(set(ids)) and all(len(i) == 64 for i in ids), "validators out of order")
    need(header["validators_hash"] == hash_ids(ids), "the block is of other validators")
    block = digest(b"block", network, pack("Header", header)).hex()
    signers, signatures = certificate["signers"], certificate["signatures"]
    need(certificate["block_id"] == block and certificate["height"] == header["height"]
         and certificate["round"] >= header["round"], "the certificate is of another block")
    need(signers == sorted(set(signers)) and len(signers) == len(signatures)
         and len(signers) > 2 * len(ids) // 3 and signers[-1] < len(ids), "too few signers")
    for index, signature in zip(signers, signatures, strict=True):
        vote = b"\x96" + b"".join(map(pack, ("uint",) * 3 + ("bytes",) * 3, (
            header["height"], certificate["round"], 2, block, ids[index], "")))
        need(is_signed(ids[index], signature, digest(b"vote", network, vote)), "a vote is forged")
    return [ids[index] for index in signers]


def check_entry(bundle, kind, key, value, place):
    """F19: the entry is in the state that the header commits to."""
    leaf = f"{kind}/".encode() + bytes.fromhex(key) + pack(kind.capitalize(), value)
    node, index, path = hashlib.sha256(b"\0" + leaf).digest(), place["index"], list(place["path"])
    last = bundle["entries"] - 1
    need(index <= last, "an entry is not in the state")
    while last > 0:
        if index % 2 or index < last:
            need(path, "a path is too short")
            pair = [node, bytes.fromhex(path.pop(0))]
            node = hashlib.sha256(b"\1" + b"".join(pair[:: -1 if index % 2 else 1])).digest()
        index, last = index // 2, last // 2
    need(not path and node.hex() == bundle["header"]["state_root"], "an entry is not in the state")


def check_bundle(bundle, trust):
    """F21, F22: the verdict is in a state that the trusted validators made final."""
    network, known = bytes.fromhex(trust["network_id"]), [m["id"] for m in trust["validators"]]
    needed, height, first = trust["quorum"], 0, known
    for change in bundle["handovers"]:
        signers, header = change["signers"], change["header"]
        need(header["height"] > height, "handovers out of order")
        present = set(check_final(header, change["certificate"], signers, network)) & set(known)
        quorum = trust["quorum"] if known is first else 2 * len(known) // 3 + 1
        least = quorum if signers == known else len(known) // 3 + 1
        need(len(present) >= least, "handed over by nobody you trust", "unknown")
        known, height = change["following"], header["height"]
        need(header["next_validators_hash"] == hash_ids(known), "the block hands over to others")
        needed = 2 * len(known) // 3 + 1
    header, verdict, submission = bundle["header"], bundle["verdict"], bundle["submission"]
    need(header["height"] > height, "handovers beyond the block")
    need(header["validators_hash"] == hash_ids(known), "signed by nobody you trust", "unknown")
    signers = check_final(header, bundle["certificate"], known, network)
    need(len(signers) >= needed, "fewer signed than the trust file asks for")
    for kind, key, value in ("submission", "id", submission), ("verdict", "submission", verdict):
        place = {"index": bundle[f"{kind}_index"], "path": bundle[f"{kind}_path"]}
        check_entry(bundle, kind, value[key], value, place)
    listed, child = bundle["origin"]["registrations"], verdict
    need(len(listed) == bool(verdict["registration"]), "the registration is missing")
    for entry in listed:
        made = entry["registration"]
        same = (made["id"], made["sender"]) == (verdict["registration"], verdict["sender"])
        need(same, "another registration")
        check_entry(bundle, "registration", made["id"], made, entry)
    for entry in bundle["origin"]["ancestors"]:
        need(entry["verdict"]["submission"] == child["parent"], "another parent")
        child = entry["verdict"]
        check_entry(bundle, "verdict", child["submission"], child, entry)
    count = len(bundle["origin"]["ancestors"])
    need(count <= 16 and not (count < 16 and child["parent"]), "a parent is missing")
    submit, sender = submission["submit"], bytes.fromhex(submission["sender"])
    own = digest(b"submission", network, sender, pack("Submit", submit)).hex()
    same = ("model_digest", "registration", "parent")
    need(own == submission["id"] == verdict["submission"] and submission["phase"] == "decided"
         and verdict["sender"] == submission["sender"] and verdict["height"] <= header["height"]
         and verdict["intervals"] == len(submit["step_roots"])
         and verdict["registrations"] == submission["registrations"]
         and all(verdict[name] == submit[name] for name in same), "put together by hand")


def compute_content(path):
    """F8: the content digest of a safetensors file."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        need(size <= 2**26, "the model's header is too large", "unknown")
        header, data, end = parse(file.read(size)), file.read(), 0
    header.pop("__metadata__", None)
    for entry in sorted(header.values(), key=lambda each: each["data_offsets"]):
        begin, length = end, SIZES[entry["dtype"]] * math.prod(entry["shape"])
        end += length
        need(entry["data_offsets"] == [begin, end] and length >= 0, "not safetensors", "unknown")
    need(end == len(data), "the model file has another size", "unknown")
    hasher = blake3(b"milepost/v1/tensors\0" + struct.pack("<I", len(header)))
    for name, entry in sorted(header.items()):
        text, dtype, shape = name.encode(), entry["dtype"].encode(), entry["shape"]
        begin, end = entry["data_offsets"]
        hasher.update(struct.pack("<H", len(text)) + text + bytes([len(dtype)]) + dtype
                      + struct.pack(f"<B{len(shape)}QQ", len(shape), *shape, end - begin))
        hasher.update(data[begin:end])
    return hasher.hexdigest()


def read(proof_path, trust_path):
    """Bundle, trust and the envelope's signatures; raises where they lack the form of one."""
    with open(proof_path, "rb") as proof, open(trust_path, "rb") as trust_file:
        file, trust = parse(proof.read()), parse(trust_file.read())
    need(trust.pop("format") == "milepost/trust/1", "no trust file", "unknown")
    pack("Trust", trust)
    ids = [member["id"] for member in trust["validators"]]
    need(ids and ids == sorted(set(ids)) and all(m["roles"] & 1 for m in trust["validators"])
         and 2 * len(ids) // 3 < trust["quorum"] <= len(ids), "an unsafe trust file", "unknown")
    need(file["format"] == "milepost/proof/2", "no proof file", "unknown")
    envelope = file["envelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind, statement = envelope["payloadType"], parse(payload)
    need((kind, statement["_type"], statement["predicateType"]) == ("application/vnd.in-toto+json",
         "https://in-toto.io/Statement/v1", "urn:milepost:verdict:v1"), "another type", "unknown")
    bundle = statement["predicate"]["bundle"]
    pack("ProofBundle", bundle)
    (subject,) = statement["subject"]
    need(subject["digest"] == {"milepostModelBlake3": bundle["verdict"]["model_digest"]},
         "the statement is about another model", "unknown")
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    return bundle, trust, [(each["keyid"], base64.b64decode(each["sig"], validate=True).hex(), pae)
                           for each in envelope["signatures"]]


def check(model, proof, trust):
    try:
        bundle, trusted, signatures = read(proof, trust)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Answer("unknown", f"trust or proof cannot be used: {error!r}") from error
    check_bundle(bundle, trusted)
    for each in signatures:
        need(is_signed(*each), "the envelope was changed")
    try:
        found = compute_content(model)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Answer("unknown", f"the model cannot be read: {error!r}") from error
    verdict = bundle["verdict"]
    need(found == verdict["model_digest"], "the proof is for other weights", "mismatch")
    need(verdict["outcome"] != "UNDECIDED", verdict["reason"], "unknown")
    need(verdict["outcome"] == "VALID", verdict["reason"], "rejected")
    raise Answer("accepted", verdict["reason"])


if __name__ == "__main__":
    try:
        check(*sys.argv[1:4])
    except Answer as answer:
        print(*answer.args, sep=": ")
        sys.exit({"accepted": 0, "unknown": 3}.get(answer.args[0], 1))
