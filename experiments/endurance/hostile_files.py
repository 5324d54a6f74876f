"""Files that want to be run: every command that opens them ends in one sentence, exit code 2, and no mark is left.

A file is planted that would open a mark if it were unpickled, imported or called; the command must refuse it with the
reason. What is refused is not enough: the mark's absence is looked at.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.endurance import small
from experiments.endurance.canaries import PLANTED, SANDBOX, objects_that_mark, torch_file_that_marks, yaml_that_marks
from experiments.endurance.determinism import stopped_in_training
from experiments.endurance.outcome import Endurance, Outcome

WHAT = "a file's code was run, or the refusal was no sentence"
TARGETS = {
    "reranker": ["os.system", "builtins.eval", "data.download.download", "experiments.runs.subprocess.Popen"],
    "dataset": ["subprocess.Popen", "rerankers.bert4rec.BERT4Rec"],
    "tracking": ["os.system"],
    "protocol.split": ["os.system"],
    "candidates.retriever": ["os.system", "rerankers.base.Reranker.__init__"],
}
HYDRA = [
    "+hydra.callbacks.x._target_=os.system",
    "hydra/launcher=joblib",
    "--config-dir=/tmp",
    "experiment=../../evil",
]


def outcomes(settings: Endurance) -> Iterator[Outcome]:
    place, mark = settings.scratch, settings.scratch / "mark"
    run = small.run("train.py", *small.words("viranker", place))
    folder = next(place.glob("runs/*/manifest.json")).parent
    if run.returncode or not (folder / "model").is_dir():
        raise RuntimeError(f"the run that is to be broken did not end: {run.stderr[-300:]}")

    (corpus := place / "corpus.csv").write_text("id,text\na,one text\nb,another text\n")

    def ranked(model: Path) -> list[str]:
        words = [f"run={model}", "query=which", f"passages={corpus}", "column=text", f"paths.root={place}"]
        return ["-m", "experiments.rank", *words]

    def trained(model: Path) -> list[str]:
        own = [word for word in small.words("viranker", place) if "init=" not in word and "scratch." not in word]
        return ["train.py", *own, f"reranker.model={model}"]

    def enriched(model: Path) -> list[str]:
        return ["-m", "experiments.enrich", "field=image_features", f"model={model}", f"paths.root={place}"]

    for number, (fault, plant) in enumerate(PLANTED.items()):
        model = shutil.copytree(folder / "model", place / f"planted{number}")
        plant(model, mark)
        commands = {"rank": ranked, "train": trained, "enrich": enriched}
        name, command = list(commands.items())[number % len(commands)]  # each folder once; all pairs are a fast test
        yield refused(f"a model folder with {fault}", f"{name}: {fault}", command(model), mark)
    for damage, change in DAMAGED.items():
        model = shutil.copytree(folder / "model", place / "damaged")
        change(model)
        yield refused("a damaged model folder", damage, ranked(model), mark)
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
        yield refused("a stored run that would set Hydra", word, again, mark)
    (folder / "overrides.yaml").write_text(stored + "- reranker._target_=os.system\n")
    yield refused("a _target_ that is no class of this project", "of a stored run", again, mark)
    for name in ("overrides.yaml", "config.yaml"):
        before = (folder / name).read_text()
        (folder / name).write_text(yaml_that_marks(mark))
        yield refused("YAML that makes objects", name, again, mark)
        (folder / name).write_text(before)
    (folder / "overrides.yaml").write_text(stored)
    (folder / "model" / "training_args.bin").write_bytes(torch_file_that_marks(mark))
    yield refused("a model folder with a pickle beside safetensors", "of a stored run", again, mark)
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        shutil.rmtree(root := place / "checkpoints", ignore_errors=True)
        words = ["train.py", *small.words("bert4rec", root)]
        why = stopped_in_training(words[1:])
        for checkpoint in root.glob("runs/*/checkpoints/checkpoint-*"):
            (checkpoint / file).write_bytes(torch_file_that_marks(mark))
        said = why or "holds more than tensors"
        yield refused("a pickle in a checkpoint that training goes on from", file, words, mark, said)


def of_configs(place: Path, mark: Path) -> Iterator[Outcome]:
    words = small.words("bert4rec", place / "targets")
    for where, targets in TARGETS.items():
        for target in targets:
            word = f"{where}._target_={target}"
            yield refused("a _target_ that is no class of this project", word, ["train.py", *words, word], mark)
    (features := place / "features.npy").write_bytes(objects_that_mark(mark))
    features.with_suffix(".items.txt").write_text("a\n")
    word = f"dataset.image_features={features}"
    yield refused("features that are Python objects", word, ["train.py", *words, word], mark)


def templates() -> Outcome:
    """Rendered as the tokenizers do it."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    escaped = []
    for name, template in SANDBOX.items():
        try:
            render_jinja_template([[{"role": "user", "content": "a"}]], chat_template=template)
            escaped.append(name)
        except TemplateError:  # the sandbox's SecurityError is one
            pass
    n = len(SANDBOX)
    lost = WHAT if escaped else "nothing"
    return Outcome("a chat template that leaves its sandbox", n, n - len(escaped), lost, failures=escaped)


def refused(fault: str, what: str, command: list[str], mark: Path, said: str = "") -> Outcome:
    """Survived: exit code 2, one line of error without a traceback, its reason, and nothing was run."""
    ended = small.run(*command)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    sentence = len(errors) == 1 and "Traceback" not in ended.stderr and said in errors[0]
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


def _cut(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _loop(model: Path) -> None:
    shutil.rmtree(model)
    model.symlink_to(model)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "weights that are cut off": _cut,
    "a header of 2^60 bytes": lambda model: (model / "model.safetensors").write_bytes(bytes(7) + b"\x10{}"),
    "empty weights": lambda model: (model / "model.safetensors").write_bytes(b""),
    "a pickle called safetensors": lambda model: (model / "model.safetensors").write_bytes(
        torch_file_that_marks(model / "mark")
    ),
    "a config that is null": lambda model: (model / "config.json").write_text("null"),
    "a config that is cut off": lambda model: (model / "config.json").write_text('{"model_type": "xlm'),
    "a link to itself": _loop,
}
