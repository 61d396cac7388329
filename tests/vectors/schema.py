"""Writes docs/spec/proof.schema.json from the types: python -m tests.vectors.schema.

The properties of every type stand in the order in which its canonical encoding has them.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from milepost_consensus.dsse import MODEL_DIGEST, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from milepost_consensus.encoding import MAX_UINT, Wire
from milepost_consensus.light import PROOF_FORMAT, ProofBundle, Trust

PATH: Final = Path(__file__).parents[2] / "docs" / "spec" / "proof.schema.json"
BASE64: Final = {"type": "string", "contentEncoding": "base64"}
DIGEST: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def make_object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """An object of exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def make_list(items: object, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


def describe(kind: Any, defs: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field's type; types that it names are added to `defs`."""
    if get_origin(kind) is tuple:
        return make_list(describe(get_args(kind)[0], defs))
    if isinstance(kind, type) and issubclass(kind, Wire):
        if kind.__name__ not in defs:
            hints = typing.get_type_hints(kind)
            fields = {name: describe(hints[name], defs) for name in kind.__struct_fields__}
            defs[kind.__name__] = make_object(fields)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return {"$ref": "#/$defs/" + {int: "uint", bytes: "bytes", str: "text"}[kind]}


def make_schema() -> dict[str, Any]:
    """The schema of a proof file; `Statement` is that of the payload inside, `Trust` of trust."""
    defs: dict[str, Any] = {
        "uint": {"type": "integer", "minimum": 0, "maximum": MAX_UINT},
        "bytes": {"type": "string", "pattern": "^([0-9a-f]{2})*$"},
        "text": {"type": "string", "pattern": "^[ -~]*$"},
    }
    describe(Trust, defs)
    subject = {"name": {"type": "string"}, "digest": make_object({MODEL_DIGEST: DIGEST})}
    defs["Statement"] = make_object(
        {
            "_type": {"const": STATEMENT_TYPE},
            "subject": make_list(make_object(subject), minItems=1, maxItems=1),
            "predicateType": {"const": PREDICATE_TYPE},
            "predicate": make_object({"bundle": describe(ProofBundle, defs)}),
        }
    )
    signature = make_object({"keyid": DIGEST, "sig": BASE64})
    payload = {
        **BASE64,
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/$defs/Statement"},
    }
    envelope = make_object(
        {
            "payloadType": {"const": PAYLOAD_TYPE},
            "payload": payload,
            "signatures": make_list(signature),
        }
    )
    hints = make_object({"note": {"type": "string"}, "model_sha256": DIGEST})
    file = {"format": {"const": PROOF_FORMAT}, "envelope": envelope, "unsigned": hints}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "model.proof.json",
        **make_object(file, "unsigned"),
        "$defs": defs,
    }


def render() -> str:
    """The file's text."""
    return json.dumps(make_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render())
