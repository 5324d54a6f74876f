"""Files that want to be run: every command that opens them ends in one sentence, exit code 2, and no mark is left.

A file is planted that would open a mark if it were unpickled, imported or called; the command must refuse it, and for
that reason: what it would have refused anyway shows nothing. So each command is first seen to take what has no fault.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.endurance import small
from experiments.endurance.canaries import (
    PLANTED,
    SANDBOX,
    code_beside,
    objects_that_mark,
    torch_file_that_marks,
    yaml_that_marks,
)
from experiments.endurance.determinism import stopped_in_training
from experiments.endurance.outcome import Endurance, Outcome
from experiments.endurance.tiny_blip import blip
from experiments.launch import ROOT

WHAT = "a file's code was run, or it was not refused for that reason in one sentence"
NOT_OURS, NO_CLASS, ANOTHER = "is not a class of this project", "cannot be imported", "is no .* of this project"
TARGETS = [  # where, what, why it is refused
    ("reranker", "os.system", NOT_OURS),
    ("reranker", "builtins.eval", NOT_OURS),
    ("reranker", "data.download.download", NO_CLASS),  # a function
    ("reranker", "experiments.runs.subprocess.Popen", ANOTHER),  # a class that a module of ours has imported
    ("reranker", "rerankers.training.TrainingArguments", ANOTHER),  # even a dataclass
    ("reranker", "rerankers.base.Reranker.__init__", NO_CLASS),
    ("reranker", "rerankers.base.TrainerConfig", ANOTHER),
    ("reranker", "data.sources.demo.Demo", ANOTHER),  # ours, in another place
    ("dataset", "subprocess.Popen", NOT_OURS),
    ("dataset", "rerankers.bert4rec.BERT4Rec", ANOTHER),
    ("protocol.split", "rerankers.baselines.Random", ANOTHER),
    ("candidates.retriever", "rerankers.baselines.Random", ANOTHER),
    ("tracking", "data.sources.demo.Demo", ANOTHER),
    ("tracking", "experiments.launch.os", NO_CLASS),
]
HYDRA = [  # words of a stored run that would set Hydra, or read a config from elsewhere
    "+hydra.callbacks.x._target_=os.system",
    "hydra/launcher=joblib",
    "reranker@hydra.x=bert4rec",
    "--config-dir=/tmp",
    "-m",
    "experiment=../../evil",
    "experiment=/tmp/evil",
    "experiment=[/tmp/evil]",
    "+experiment@a.b=../../x",
    "+a.b@_global_=x",
]
NOT_STORED = "which no run of this project stores"
NO_TENSORS = r"reranker\.model=\S+ cannot be loaded \(Error while deserializing header"


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    place, mark = settings.scratch, settings.scratch / "mark"
    code_beside(mark)
    run = small.run("train.py", *small.words("viranker", place))
    if run.returncode:
        yield Outcome("the run that is to be broken", 1, 0, "the run", failures=[run.stderr[-500:]])
        return
    (folder,) = (path.parent for path in place.glob("runs/*/manifest.json"))
    (corpus := place / "corpus.csv").write_text("id,text\na,one text\nb,another text\n")

    def ranked(model: Path) -> list[str]:
        words = [f"run={model}", "query=which", f"passages={corpus}", "column=text", f"paths.root={place}"]
        return ["-m", "experiments.rank", *words]

    def trained(model: Path) -> list[str]:
        own = [word for word in small.words("viranker", place) if "init=" not in word and "scratch." not in word]
        return ["train.py", *own, f"reranker.model={model}"]

    def captioned(model: Path) -> list[str]:
        words = [*small.DATA[:3], "field=caption", "limit=2", "max_new_tokens=4", f"paths.root={place}"]
        return ["-m", "experiments.enrich", f"model={model}", *words]

    text, picture = shutil.copytree(folder / "model", place / "text"), blip(place / "picture")
    commands = {"rank": (ranked, text), "train": (trained, text), "enrich": (captioned, picture)}
    for name, (command, whole) in commands.items():
        yield taken("a whole model folder", name, command(whole))
    for number, (fault, (plant, said)) in enumerate(PLANTED.items()):
        name, (command, whole) = list(commands.items())[number % len(commands)]
        plant(model := shutil.copytree(whole, place / f"planted{number}"), mark)
        yield refused(f"a model folder with {fault}", name, command(model), mark, said)
    for damage, (change, said) in DAMAGED.items():
        change(model := shutil.copytree(text, place / "damaged"), mark)
        yield refused("a damaged model folder", damage, ranked(model), mark, said)
        remove(model)
    yield from of_a_run(place, folder, mark)
    yield from of_configs(place, mark)
    yield templates()


def of_a_run(place: Path, folder: Path, mark: Path) -> Iterator[Outcome]:
    """A run folder that came from elsewhere, evaluated; then a pickle in its checkpoint, trained on."""
    stored = (folder / "overrides.yaml").read_text()
    again = ["evaluate.py", f"run={folder}", f"paths.root={place}", "protocol.filter_seen=false"]
    for word in HYDRA:
        (folder / "overrides.yaml").write_text(stored + f"- '{word}'\n")
        yield refused("a stored run that would set Hydra", word, again, mark, f"'{re.escape(word)}', {NOT_STORED}")
    (folder / "overrides.yaml").write_text(stored + "- reranker._target_=os.system\n")
    said = f"reranker._target_=os.system {NOT_OURS}"
    yield refused("a _target_ that is no class of this project", "of a stored run", again, mark, said)
    (folder / "overrides.yaml").write_text(stored)
    for name in ("overrides.yaml", "config.yaml"):
        before = (folder / name).read_text()
        (folder / name).write_text(yaml_that_marks(mark))
        said = f"{name} cannot be read: could not determine a constructor"
        yield refused("YAML that makes objects", name, again, mark, said)
        (folder / name).write_text(before)
    (beside := folder / "model" / "training_args.bin").write_bytes(torch_file_that_marks(mark))
    said = r"holds training_args\.bin, a pickle,"
    yield refused("a model folder with a pickle beside safetensors", "of a stored run", again, mark, said)
    beside.unlink()
    yield taken("a whole stored run", "evaluate", again)  # the last: what is evaluated once is not opened again
    why = stopped_in_training(small.words("bert4rec", stopped := place / "stopped"))
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        fault = "a pickle in a checkpoint that training goes on from"
        if why:
            yield Outcome(fault, 1, 0, WHAT, failures=[why])
            continue
        (checkpoint,) = shutil.copytree(stopped, root := place / file).glob("runs/*/checkpoints/checkpoint-*")
        (checkpoint / file).write_bytes(torch_file_that_marks(mark))
        said = rf"{checkpoint.name} holds more than tensors, and is not opened"
        yield refused(fault, file, ["train.py", *small.words("bert4rec", root)], mark, said)


def of_configs(place: Path, mark: Path) -> Iterator[Outcome]:
    words = small.words("bert4rec", place / "targets")
    for where, target, why in TARGETS:
        word = f"{where}._target_={target}"
        said = f"{re.escape(word)} {why}"
        yield refused("a _target_ that is no class of this project", word, ["train.py", *words, word], mark, said)
    (features := place / "features.npy").write_bytes(objects_that_mark(mark))
    features.with_suffix(".items.txt").write_text("a\n")
    word = f"dataset.image_features={features}"
    said = r"features\.npy could not be read \(Object arrays cannot be loaded"
    yield refused("features that are Python objects", word, ["train.py", *words, word], mark, said)


def templates() -> Outcome:
    """Rendered as the tokenizers do it."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    wrong = []
    for name, (template, why) in SANDBOX.items():
        try:
            render_jinja_template([[{"role": "user", "content": "a"}]], chat_template=template)
            wrong.append(f"{name}: it was rendered")
        except TemplateError as error:
            if type(error).__name__ != why:
                wrong.append(f"{name}: {error!r}")
    n = len(SANDBOX)
    lost = WHAT if wrong else "nothing"
    return Outcome("a chat template that leaves its sandbox", n, n - len(wrong), lost, failures=wrong)


def taken(fault: str, what: str, command: list[str]) -> Outcome:
    """Survived: the command that is to refuse what is planted ends well without it."""
    ended = small.run(*command)
    if not ended.returncode:
        return Outcome(f"{fault}, which is taken", 1, 1)
    why = f"{what}: exit code {ended.returncode}, {ended.stderr[-400:]}"
    return Outcome(f"{fault}, which is taken", 1, 0, "it was refused", failures=[why])


def refused(fault: str, what: str, command: list[str], mark: Path, said: str) -> Outcome:
    """Survived: exit code 2, one line of error without a traceback, `said` in it, and nothing was run."""
    path = os.pathsep.join([str(ROOT), str(mark.parent / "code")])
    ended = small.run(*command, PYTHONPATH=path)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    sentence = len(errors) == 1 and "Traceback" not in ended.stderr and re.search(said, errors[0])
    ran = mark.exists()
    mark.unlink(missing_ok=True)
    if ended.returncode == 2 and sentence and not ran:
        return Outcome(fault, 1, 1)
    why = f"{what}: exit code {ended.returncode}, {'RAN' if ran else 'not run'}, {ended.stderr[-400:]}"
    return Outcome(fault, 1, 0, WHAT, failures=[why])


def remove(model: Path) -> None:
    if model.is_symlink():
        model.unlink()
    else:
        shutil.rmtree(model)


def _cut(model: Path, mark: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _loop(model: Path, mark: Path) -> None:
    shutil.rmtree(model)
    model.symlink_to(model)


def _holds(name: str, content: bytes) -> Callable[[Path, Path], object]:
    return lambda model, mark: (model / name).write_bytes(content)


DAMAGED: dict[str, tuple[Callable[[Path, Path], object], str]] = {  # and why it is refused
    "weights that are cut off": (_cut, f"{NO_TENSORS}: incomplete metadata"),
    "a header of 2^60 bytes": (_holds("model.safetensors", bytes(7) + b"\x10{}"), f"{NO_TENSORS}: header too large"),
    "empty weights": (_holds("model.safetensors", b""), f"{NO_TENSORS}: header too small"),
    "a pickle called safetensors": (
        lambda model, mark: (model / "model.safetensors").write_bytes(torch_file_that_marks(mark)),
        f"{NO_TENSORS}: header too large",
    ),
    "a config that is null": (_holds("config.json", b"null"), r"config\.json cannot be read \(it is no JSON object"),
    "a config that is cut off": (
        _holds("config.json", b'{"model_type": "xlm'),
        r"config\.json cannot be read \(Unterminated string",
    ),
    "a link to itself": (_loop, "is no folder, no run in"),
}
