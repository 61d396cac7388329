"""`milepost key`: private keys as files; what is printed is never the private part."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated, Final

import typer

from milepost.cli import output
from milepost.cli.options import Json

File = Annotated[Path, typer.Argument(metavar="FILE", help="A key file.")]
PassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file", metavar="F", help="A file with the passphrase; - for standard input."
    ),
]
ENCRYPTED_KEY: Final = "(encrypted)"

app = typer.Typer(name="key", help="Private keys: new, show, list.", no_args_is_help=True)


@app.command()
def new(file: File, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Write a new private key, mode 0600, and print its public key. Replaces nothing."""
    from milepost.keys import read_passphrase, write_key

    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    _print(file, write_key(file, passphrase=passphrase).public, as_json)


@app.command()
def show(file: File, passphrase_file: PassphraseFile = None, as_json: Json = False) -> None:
    """Print the public key of a key file."""
    from milepost.keys import read_key, read_passphrase

    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    _print(file, read_key(file, passphrase=passphrase).public, as_json)


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look.")] = Path("."),
    as_json: Json = False,
) -> None:
    """List the key files (*.key) in a folder."""
    from milepost.errors import MilepostError
    from milepost.keys import is_encrypted, read_key

    rows: list[dict[str, object]] = []
    for file in sorted(folder.glob("*.key")):
        row: dict[str, object] = {"file": str(file), "encrypted": is_encrypted(file)}
        row["mode"] = f"{stat.S_IMODE(file.stat().st_mode):04o}"
        try:
            row["public"] = "" if row["encrypted"] else read_key(file).public.hex()
            row["problem"] = ""
        except MilepostError as error:
            row |= {"public": "", "problem": error.slug}
        rows.append(row)
    if as_json:
        output.print_json({"keys": rows})
    else:
        output.print_table(
            ("file", "mode", "public key"),
            [
                (
                    str(row["file"]),
                    str(row["mode"]),
                    ENCRYPTED_KEY if row["encrypted"] else str(row["public"] or row["problem"]),
                )
                for row in rows
            ],
        )


def _print(file: Path, public: bytes, as_json: bool) -> None:
    from milepost.keys import is_encrypted

    if as_json:
        output.print_json(
            {"file": str(file), "public": public.hex(), "encrypted": is_encrypted(file)}
        )
    else:
        output.say(f"{public.hex()}  {file}{'  ' + ENCRYPTED_KEY if is_encrypted(file) else ''}")
