"""Checks a model file against its proof and a trust file, from docs/spec/formats.md alone.

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

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Fields in the order of their encoding: u unsigned integer, b bytes, t text, a type, * a list of it.
TYPES = {name: [field.split(":") for field in fields.split()] for name, fields in {
    "Trust": "network:t network_id:b validators:*Member quorum:u",
    "Member": "id:b name:t roles:u operator:t endpoint:t onion:b onion_left:u",
    "Bundle": "handovers:*Handover header:Header certificate:Certificate entries:u"
    " submission:Submission submission_index:u submission_path:*b verdict:Verdict verdict_index:u"
    " verdict_path:*b origin:Origin",
    "Handover": "header:Header certificate:Certificate signers:*b following:*b",
    "Header": "version:u height:u round:u time_ms:u prev_id:b proposer:b reveal:b mix:b tx_root:b"
    " state_root:b validators_hash:b next_validators_hash:b",
    "Certificate": "height:u round:u block_id:b signers:*u signatures:*b",
    "Submission": "id:b sender:b submit:Submit anchored_height:u phase:t deadline:u holders:*b"
    " held_height:u seed:b flagged:*u quorum:*b standbys:*b panel:*b verifiers:u duties:*Duty"
    " accusations:*Accusation extensions:u registrations:u",
    "Submit": "name:t recipe:b dataset_root:b records:u profile:t device_class:t steps:u"
    " steps_per_interval:u steps_per_digest:u snapshots:*b step_roots:*b change_scores:*u"
    " rate_sums:*u initial_model_digest:b initial_optimizer_digest:b model_digest:b"
    " optimizer_digest:b manifest:b size_bytes:u step_us:u registration:b parent:b tolerance_ppb:u",
    "Duty": "interval:u verifier:b flagged:u work_step:u answer:t work_digest:b distance_ppb:u"
    " height:u",
    "Accusation": "interval:u step:u leaf:b pre_state:b accusers:*b answers:*Answer outcome:t",
    "Answer": "verifier:b recomputed:b",
    "Verdict": "submission:b sender:b model_digest:b outcome:t reason:t assurance:t profile:t rule:t"
    " intervals:u retraced:*Retraced refuted:*Refuted overruled:*b seed:b anchored_height:u"
    " height:u registration:b parent:b registrations:u eligible:u verifiers:u coverage:*Miss"
    " tolerance_ppb:u",
    "Retraced": "interval:u flagged:u assigned:u agreed:u differed:u",
    "Refuted": "interval:u step:u",
    "Miss": "altered:u ppm:u",
    "Origin": "registrations:*Entry ancestors:*Ancestor",
    "Entry": "registration:Registration index:u path:*b",
    "Registration": "id:b sender:b register:Register height:u seed:b submission:b",
    "Register": "recipe:b dataset_root:b records:u parent:b attempt:u",
    "Ancestor": "verdict:Verdict index:u path:*b",
}.items()}
SMALL = {0, 1, *(2**255 - 19 + i for i in (-1, 0, 1)), *(int.from_bytes(bytes.fromhex(y), "little")
    for y in ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
              "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"))}
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


def pack(kind, value):
    """The MessagePack bytes of JSON data; raises ValueError where it is not of this kind."""
    def sized(small, big, n):
        for limit, code, form in big:
            if n < limit:
                return small(n) if code is None else bytes([code]) + struct.pack(form, n)
    if kind[0] == "*" or kind in TYPES:
        if kind[0] == "*":
            parts = [pack(kind[1:], each) for each in (value if type(value) is list else [None])]
        elif type(value) is dict and value.keys() == {name for name, _ in TYPES[kind]}:
            parts = [pack(inner, value[name]) for name, inner in TYPES[kind]]
        else:
            raise ValueError(f"not the fields of {kind}")
        return sized(lambda n: bytes([0x90 | n]), [(16, None, ""), (2**16, 0xDC, ">H"),
                     (2**32, 0xDD, ">I")], len(parts)) + b"".join(parts)
    if kind == "u" and type(value) is int and 0 <= value < 2**63:
        return sized(lambda n: bytes([n]), [(128, None, ""), (2**8, 0xCC, ">B"), (2**16, 0xCD, ">H"),
                     (2**32, 0xCE, ">I"), (2**63, 0xCF, ">Q")], value)
    if kind == "b" and type(value) is str and bytes.fromhex(value).hex() == value:
        data = bytes.fromhex(value)
        return sized(None, [(2**8, 0xC4, ">B"), (2**16, 0xC5, ">H"), (2**32, 0xC6, ">I")],
                     len(data)) + data
    if kind == "t" and type(value) is str and value.isascii():
        return sized(lambda n: bytes([0xA0 | n]), [(32, None, ""), (2**8, 0xD9, ">B"),
                     (2**16, 0xDA, ">H"), (2**32, 0xDB, ">I")], len(value)) + value.encode()
    raise ValueError(f"not a value of kind {kind}")


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


def check_final(header, certificate, ids, network):
    """F20: more than two thirds of the validators `ids` signed the header."""
    need(ids == sorted(set(ids)) and all(len(i) == 64 for i in ids), "validators out of order")
    need(header["validators_hash"] == digest(b"validators", *map(bytes.fromhex, ids)).hex(),
         "the block is of other validators")
    block = digest(b"block", network, pack("Header", header)).hex()
    signers, signatures = certificate["signers"], certificate["signatures"]
    need(certificate["block_id"] == block and certificate["height"] == header["height"]
         and certificate["round"] >= header["round"], "the certificate is of another block")
    need(signers == sorted(set(signers)) and len(signers) == len(signatures)
         and len(signers) > 2 * len(ids) // 3 and signers[-1] < len(ids), "too few signers")
    for index, signature in zip(signers, signatures):
        vote = b"\x96" + b"".join(map(pack, "uuubbb", (
            header["height"], certificate["round"], 2, block, ids[index], "")))
        need(is_signed(ids[index], signature, digest(b"vote", network, vote)), "a vote is forged")
    return [ids[index] for index in signers]


def check_entry(bundle, prefix, key, kind, value, index, path):
    """F19: the entry is in the state that the header commits to."""
    leaf = prefix + bytes.fromhex(key) + pack(kind, value)
    node, last, path = hashlib.sha256(b"\0" + leaf).digest(), bundle["entries"] - 1, list(path)
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
        need(header["next_validators_hash"] == digest(b"validators", *map(bytes.fromhex, known))
             .hex(), "the block hands over to others")
        needed = 2 * len(known) // 3 + 1
    header, verdict, submission = bundle["header"], bundle["verdict"], bundle["submission"]
    need(header["height"] > height, "handovers beyond the block")
    hashed = digest(b"validators", *map(bytes.fromhex, known)).hex()
    need(header["validators_hash"] == hashed, "signed by nobody you trust", "unknown")
    signers = check_final(header, bundle["certificate"], known, network)
    need(len(signers) >= needed, "fewer signed than the trust file asks for")
    check_entry(bundle, b"submission/", submission["id"], "Submission", submission,
                bundle["submission_index"], bundle["submission_path"])
    check_entry(bundle, b"verdict/", verdict["submission"], "Verdict", verdict,
                bundle["verdict_index"], bundle["verdict_path"])
    listed, child = bundle["origin"]["registrations"], verdict
    need(len(listed) == bool(verdict["registration"]), "the registration is missing")
    for entry in listed:
        made = entry["registration"]
        need((made["id"], made["sender"]) == (verdict["registration"], verdict["sender"]),
             "another registration")
        check_entry(bundle, b"registration/", made["id"], "Registration", made, entry["index"],
                    entry["path"])
    for entry in bundle["origin"]["ancestors"]:
        need(entry["verdict"]["submission"] == child["parent"], "another parent")
        child = entry["verdict"]
        check_entry(bundle, b"verdict/", child["submission"], "Verdict", child, entry["index"],
                    entry["path"])
    count = len(bundle["origin"]["ancestors"])
    need(count == 16 or count < 16 and not child["parent"], "a parent is missing")
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
    pack("Bundle", bundle)
    (subject,) = statement["subject"]
    need(subject["digest"] == {"milepostModelBlake3": bundle["verdict"]["model_digest"]},
         "the statement is about another model", "unknown")
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    signed = [(each["keyid"], base64.b64decode(each["sig"], validate=True).hex())
              for each in envelope["signatures"]]
    return bundle, trust, [(key, signature, pae) for key, signature in signed]


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
