"""The product's source: no call that would run what a file holds."""

import ast
from collections.abc import Iterator

import pytest

from experiments.launch import ROOT

FILES = [ROOT / "train.py", ROOT / "evaluate.py"]
FILES += sorted(path for room in ("data", "rerankers", "experiments") for path in (ROOT / room).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            if [alias.name for alias in node.names] == ["UnpicklingError"]:  # to say that a pickle was refused
                names = []
        else:
            names = []
        yield from ((node.lineno, f"imports {name}") for name in names if name in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}

        def says(keyword: str, value: object, given: dict[str | None, ast.expr] = given) -> bool:
            return keyword in given and isinstance(v := given[keyword], ast.Constant) and v.value is value

        if called in ("eval", "exec", "compile", "os.system", "__import__", "pd.read_pickle"):
            yield node.lineno, called
        elif called == "torch.load" and not says("weights_only", True):
            yield node.lineno, "torch.load without weights_only=True"
        elif called in ("np.load", "numpy.load") and not says("allow_pickle", False):
            yield node.lineno, "np.load without allow_pickle=False"
        elif called in ("yaml.load", "yaml.load_all") and ast.unparse(given.get("Loader", node)) != "SAFE_YAML":
            yield node.lineno, "yaml.load without the safe loader"
        elif called.startswith(("yaml.unsafe", "yaml.full", "joblib.")):
            yield node.lineno, called
        for keyword, dangerous in (("trust_remote_code", True), ("weights_only", False), ("allow_pickle", True)):
            if keyword in given and not says(keyword, not dangerous):
                yield node.lineno, f"{keyword}={ast.unparse(given[keyword])}"
        if says("shell", True):
            yield node.lineno, "a shell"


def test_nothing_in_the_product_would_run_a_file() -> None:
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in FILES
        for line, what in unsafe(ast.parse(path.read_text()))
        if (path.name, what) != ("killed.py", "imports runpy")  # of train.py, in a process that is to die
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(code)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=given)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "pd.read_pickle(path)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_would_is_found(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


def test_every_model_is_loaded_without_its_code() -> None:
    """`from_pretrained` of an Auto class asks on a terminal whether to run it, unless it is told."""
    lacking = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        own_folder = path.name.startswith("benchmark_")  # a folder that it has just written, or the shared one
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            if called and called.startswith("Auto") and called.endswith(".from_pretrained") and not own_folder:
                words = {word.arg or ast.unparse(word.value) for word in node.keywords}  # type: ignore[attr-defined]
                if not words & {"trust_remote_code", "safe", "options", "origin"}:  # the latter have it
                    lacking.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert not lacking
