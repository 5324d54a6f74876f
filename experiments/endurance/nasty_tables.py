"""Tables made to hurt their reader, each in a process of its own with a limit of memory and time.

python -m experiments.endurance.nasty_tables "a bomb of shared strings" /tmp/empty
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from data.errors import UserError
from experiments.endurance.breaking import Files, packed
from experiments.endurance.fuzzing import limit_memory
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.passage_readers import workbook
from experiments.endurance.small import command, environment
from experiments.launch import ROOT

SECONDS = 60
ROWS = [{"id": "1", "text": "one two"}, {"id": "2", "text": "three"}]
QUERIES = b'{"id": "q", "query": "one", "relevant": ["1"]}\n'
BILLION = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))


SHEET, STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml."


def whole() -> dict[str, str]:
    """The members of a workbook with two passages, its texts in a file of their own."""
    parts = (("/xl/workbook.xml", "sheet.main"), (f"/{SHEET}", "worksheet"), (f"/{STRINGS}", "sharedStrings"))
    overrides = "".join(f'<Override PartName="{part}" ContentType="{TYPES}{kind}+xml"/>' for part, kind in parts)
    own = (("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml"))
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{OFFICE}/{kind}" Target="{target}"/>'
        for n, (kind, target) in enumerate(own, start=1)
    )
    relations = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    cells = [f'<c r="{"AB"[n % 2]}{n // 2 + 1}" t="s"><v>{n}</v></c>{"</row>" if n % 2 else ""}' for n in range(6)]
    rows = "".join(f'<row r="{n // 2 + 1}">{cell}' if n % 2 == 0 else cell for n, cell in enumerate(cells))
    texts = ["id", "text", "1", "one two", "2", "three"]
    return {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f"{overrides}</Types>",
        "_rels/.rels": f'{relations}<Relationship Id="rId1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets><sheet name="a" sheetId="1" r:id="rId1"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f"{relations}{related}</Relationships>",
        SHEET: f"<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>",
        STRINGS: f"<sst {MAIN}>{''.join(f'<si><t>{text}</t></si>' for text in texts)}</sst>",
    }


def changed(member: str, change: Callable[[str], str]) -> bytes:
    """The workbook with one of its members changed."""
    members = whole()
    new = change(members[member])
    assert new != members[member]
    return packed({name: text.encode() for name, text in (members | {member: new}).items()})


def bomb(member: str, before: str, piece: str, times: int) -> bytes:
    """`piece` again and again in a member: it packs to a thousandth."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in whole().items():
            with archive.open(name, "w", force_zip64=True) as file:
                head, mark, tail = text.partition(before) if name == member else (text, "", "")
                file.write(head.encode())
                for _ in range(times if mark else 0):
                    file.write(piece.encode())
                file.write((mark + tail).encode())
    return out.getvalue()


def with_entity(text: str, declared: str, name: str, place: str = "one two") -> str:
    return f"<?xml version='1.0'?><!DOCTYPE x [{declared}]>" + text.replace(place, f"&{name};")


TEXT = "<si><t>" + "a" * (1 << 20) + "</t></si>"
PLAIN: dict[str, Callable[[], bytes]] = {
    "a bomb of shared strings": lambda: bomb(STRINGS, "<si>", TEXT, 1100),
    "a bomb of empty rows": lambda: bomb(SHEET, "</sheetData>", "<row/>" * 100_000, 1000),
    "a billion laughs": lambda: changed(STRINGS, lambda text: with_entity(text, BILLION, "l9")),
    "a billion laughs in a sheet": lambda: changed(SHEET, lambda text: with_entity(text, BILLION, "l9", "<v>3</v>")),
    "an external entity": lambda: changed(
        STRINGS, lambda text: with_entity(text, '<!ENTITY e SYSTEM "file:///etc/passwd">', "e")
    ),
    "a row of number 9,999,999,999": lambda: changed(SHEET, lambda text: text.replace('r="2"', 'r="9999999999"')),
    "a cell beyond the last column": lambda: changed(SHEET, lambda text: text.replace('r="B2"', 'r="XFD2"')),
    "a cell of column ZZZZ": lambda: changed(SHEET, lambda text: text.replace('r="B2"', 'r="ZZZZ2"')),
    "a text of number -1": lambda: changed(SHEET, lambda text: text.replace("<v>0</v>", "<v>-99</v>")),
    "formulas": lambda: workbook([*ROWS, {"id": "=1+2", "text": '=HYPERLINK("http://x")'}]),
    "a member ../../evil": lambda: packed({"../../evil": b"x"} | members_of(workbook(ROWS))),
    "texts in a file of their own": lambda: packed({name: text.encode() for name, text in whole().items()}),
    "an archive in an archive": lambda: packed({"xl/workbook.xml": workbook(ROWS)}),
    "no sheet": lambda: packed({"a.txt": b"x"}),
}
LINES: dict[str, Callable[[], Files]] = {
    "a line of 10 MB, JSONL": lambda: jsonl("word " * 2_000_000),
    "a line of 10 MB, CSV": lambda: {"corpus.csv": b'id,text\n1,"' + b"word " * 2_000_000 + b'"\n2,three\n'},
    "a line of 10 MB, TSV": lambda: {"corpus.tsv": b"id\ttext\n1\t" + b"word " * 2_000_000 + b"\n2\tthree\n"},
    "a quote that is never closed, CSV": lambda: {"corpus.csv": b'id,text\n1,"' + b"one\n2,three\n" * 500_000},
    "10 million separators, CSV": lambda: {"corpus.csv": b"id,text\n1,one\n2,three" + b"," * 10_000_000 + b"\n"},
    "10 million separators in the header, CSV": lambda: {
        "corpus.csv": b"id,text" + b"," * 10_000_000 + b"\n1,one\n2,x\n"
    },
    "a million brackets, JSONL": lambda: {"corpus.jsonl": b"[" * 1_000_000 + b"\n"},
    "a number of a million digits, JSONL": lambda: {
        "corpus.jsonl": b'{"id": ' + b"9" * 1_000_000 + b', "text": "x"}\n'
    },
    "a list of ids a million brackets deep": lambda: jsonl("one", "[" * 1_000_000),
}
READ = (
    "texts in a file of their own",
    "formulas",
    "a member ../../evil",
    "a line of 10 MB, JSONL",
    "a line of 10 MB, CSV",
    "a line of 10 MB, TSV",
    "10 million separators, CSV",
    "10 million separators in the header, CSV",
)


def members_of(archive: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(archive)) as content:
        return {name: content.read(name) for name in content.namelist()}


def jsonl(text: str, relevant: str = "1") -> Files:
    rows = [{"id": "1", "text": text}, {"id": "2", "text": "three"}]
    asked = {"id": "q", "query": "one", "relevant": relevant}
    return {
        "corpus.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "queries.jsonl": json.dumps(asked).encode(),
    }


def cases(settings: Endurance) -> Iterator[Outcome]:
    failures, counts = [], {"read": 0, "refused": 0}
    for number, name in enumerate([*PLAIN, *LINES]):
        folder = settings.scratch / f"table {number}"
        try:
            given = command("-m", "experiments.endurance.nasty_tables", name, str(folder))
            bare = environment(OPENPYXL_DEFUSEDXML="False")  # which a user may not have installed
            ended = subprocess.run(given, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=SECONDS)
            said = (ended.stdout + ended.stderr).strip()
        except subprocess.TimeoutExpired:
            said = f"over {SECONDS} s"
        expected = "read" if name in READ else "refused"
        evil = [path for path in (settings.scratch / "evil", settings.scratch.parent / "evil") if path.exists()]
        if not said.startswith(expected) or "\n" in said or evil:
            failures.append(f"{name}: {said[-300:]}")
        else:
            counts[expected] += 1
    tried = len(PLAIN) + len(LINES)
    lost = "a traceback, a hang or too much memory" if failures else "nothing"
    note = f"{counts['read']} read, {counts['refused']} refused in a sentence"
    yield Outcome(
        "hostile tables: XLSX bombs and entities, lines of 10 MB", tried, tried - len(failures), lost, note, failures
    )


def attempt(name: str, folder: Path) -> None:
    from data.sources.passage_files import PassageFiles

    folder.mkdir(parents=True, exist_ok=True)
    files = {"corpus.xlsx": PLAIN[name]()} if name in PLAIN else LINES[name]()
    for file, content in ({"queries.jsonl": QUERIES} | files).items():
        (folder / file).write_bytes(content)
    del files
    limit_memory()
    try:
        dataset = PassageFiles(name="passages", path=str(folder)).load(folder)
    except UserError as error:
        print(f"refused: {error}")
        return
    assert not any("root:" in text for text in dataset.catalog.description), "the text of another file"
    print(f"read: {len(dataset.catalog)} passages")


if __name__ == "__main__":
    attempt(sys.argv[1], Path(sys.argv[2]))
