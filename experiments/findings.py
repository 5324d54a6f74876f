"""What the diagnosis has found, one `Finding` a check: the table, diagnosis.json, the label and the tag of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError
from data.files import read_json, write_json

OK, WARN, FAIL, INFO = "ok", "warn", "fail", "info"
STYLE = {OK: "green", WARN: "yellow", FAIL: "bold red", INFO: "dim"}


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: str  # ok | warn | fail; info where there is nothing to judge
    evidence: str  # the measured numbers, one sentence
    advice: str = ""  # what to do; empty when ok


class DiagnosisFailed(UserError):
    """`diagnose=strict` or `check=true` found a failure; nothing is wrong with the command itself."""

    exit_code = 1


def names(findings: Iterable[Finding], verdict: str) -> list[str]:
    return [finding.check for finding in findings if finding.verdict == verdict]


def tag(findings: list[Finding]) -> str:
    """`ok`, or the worst verdict and the checks that have it: `fail: loss curve, chance`."""
    for verdict in (FAIL, WARN):
        if found := names(findings, verdict):
            return f"{verdict}: {', '.join(found)}"
    return OK


def labels(findings: list[Finding]) -> list[str]:
    """What must stand beside every number of a run with these findings."""
    out = [f"diagnosis failed: {', '.join(failed)}"] if (failed := names(findings, FAIL)) else []
    return out + ["barely trained"] * ("training length" in names(findings, WARN))


def write_diagnosis(folder: Path, findings: list[Finding]) -> None:
    """No times, so that a repeat is identical."""
    content = {"verdict": tag(findings).partition(":")[0], "findings": [asdict(finding) for finding in findings]}
    write_json(folder / "diagnosis.json", content | {"tag": tag(findings)})


def read_diagnosis(folder: Path) -> list[Finding]:
    """Nothing of a run that was made with `diagnose=off`."""
    path = folder / "diagnosis.json"
    return [Finding(**finding) for finding in read_json(path)["findings"]] if path.exists() else []


def show_diagnosis(folder: Path, diagnose: str) -> None:
    """Prints what was found of a finished run; `strict` makes a failed check an error, after everything is written."""
    if diagnose == "off" or not (findings := read_diagnosis(folder)):
        return
    trained = read_json(folder / "cost.json")["total_parameters"] > 0
    show_findings(findings, "Diagnosis", everything=trained)
    failed = {finding.check: finding for finding in findings if finding.verdict == FAIL}
    first = next((check for check in ("weights", "collapse", "loss level") if check in failed), None)
    if first:  # what is seen first, and what follows from it
        cause = failed[first]
        print(f"In short: {cause.evidence}. What to do: {cause.advice}.")
    if diagnose == "strict":
        raise_failed(findings, f"the run is whole, see {folder / 'diagnosis.json'}")


def raise_failed(findings: list[Finding], where: str) -> None:
    if failed := names(findings, FAIL):
        raise DiagnosisFailed(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}; {where}")


def show_findings(findings: list[Finding], title: str, everything: bool = True) -> None:
    """`everything=False` shows what is not ok alone, and how many checks passed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = [finding for finding in findings if everything or finding.verdict in (WARN, FAIL)]
    passed = len(findings) - len(shown)
    counts = f"{title}: {tag(findings)}" + (f" ({passed} checks passed)" if passed else "")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    if not shown:
        return console.print(counts)
    out = Table(title=counts, title_style="bold")
    out.add_column("check", no_wrap=True)
    out.add_column("verdict")
    out.add_column("evidence", ratio=3)
    advised = any(finding.advice for finding in shown)
    if advised:
        out.add_column("what to do", ratio=2)
    for finding in shown:
        verdict = f"[{STYLE[finding.verdict]}]{finding.verdict}[/]"
        advice = [escape(finding.advice)] if advised else []
        out.add_row(finding.check, verdict, escape(finding.evidence), *advice)
    console.print(out)
