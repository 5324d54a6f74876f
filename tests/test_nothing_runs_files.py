"""The source, tests included: no call that would run what a file holds."""

import ast
from collections.abc import Iterator

import pytest

from experiments.launch import ROOT

FILES = [ROOT / "train.py", ROOT / "evaluate.py"]
FILES += sorted(path for room in ("data", "rerankers", "experiments", "tests") for path in (ROOT / room).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
LOADERS = {  # of a module, whatever it is called here
    "torch": {"load", "hub"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "numpy": {"load"},
    "os": {"system", "popen"},
    "pandas": {"read_pickle"},
    "builtins": {"eval", "exec", "compile", "__import__"},
}
SHORT = {"np": "numpy", "pd": "pandas"}
SAFE = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False, "shell": False}
NEEDED = {("torch", "load"): "weights_only", ("numpy", "load"): "allow_pickle"}
# besides from_pretrained of anything but a class named in the source, which needs no code to be looked for
BUILD_FROM_FOLDERS = {"CrossEncoder", "PairEncoder", "FlagReranker", "SentenceTransformer", "pipeline"}


def safe(keyword: str, value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is SAFE[keyword]


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    names = [] if isinstance(node, ast.Import) else [alias.name for alias in node.names]
    if names != ["UnpicklingError"]:  # to say that a pickle was refused
        yield from (f"imports {module}" for module in modules if module.split(".")[0] in MODULES)
    for name in names:
        if name in LOADERS.get(modules[0], ()):
            yield f"imports {name} of {modules[0]}"
    if isinstance(node, ast.Import):
        for alias in node.names:
            known = {**{module: module for module in LOADERS}, **{long: short for short, long in SHORT.items()}}
            if alias.name in LOADERS and alias.asname not in (None, known[alias.name]):
                yield f"calls {alias.name} {alias.asname}"


def called(node: ast.Call) -> Iterator[str]:
    whole = ast.unparse(node.func)
    module, _, name = whole.rpartition(".")
    module = SHORT.get(module, module) or "builtins"
    given = {word.arg: word.value for word in node.keywords}
    if name in LOADERS.get(module, ()):
        needed = NEEDED.get((module, name))
        if needed is None or not safe(needed, given.get(needed)):
            yield whole
    for keyword in SAFE.keys() & given.keys():
        if not safe(keyword, given[keyword]):
            yield f"{keyword}={ast.unparse(given[keyword])}"
    of_a_class = module.isidentifier() and module[0].isupper() and not module.startswith("Auto")
    looks_for_code = name in BUILD_FROM_FOLDERS or (name == "from_pretrained" and not of_a_class)
    if looks_for_code and not safe("trust_remote_code", given.get("trust_remote_code")):
        yield f"{whole} without trust_remote_code=False"


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((node.lineno, what) for what in imported(node))
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in called(node))
        elif isinstance(node, ast.Dict):  # the keywords of a call, by **
            for key, value in zip(node.keys, node.values, strict=True):
                name = key.value if isinstance(key, ast.Constant) else None
                if isinstance(name, str) and name in SAFE and not safe(name, value):
                    yield node.lineno, f"{name}: {ast.unparse(value)}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.hub":
            yield node.lineno, "torch.hub"


def test_nothing_would_run_a_file() -> None:
    assert len(FILES) > 250
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
        "import pickle as harmless",
        "from pickle import loads",
        "from pickle import UnpicklingError, loads",
        "from joblib import load",
        "from torch import load",
        "from torch import hub",
        "from yaml import load",
        "from numpy import load",
        "from os import system",
        "import torch as t",
        "import numpy as n",
        "eval('1')",
        "exec(code)",
        "compile(text, name, 'exec')",
        "builtins.eval('1')",
        "os.popen(line)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=given)",
        "torch.hub.load(name)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=given)",
        "reader(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load_all(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, **options)",
        "CLASSES[kind].from_pretrained(name)",
        "CrossEncoder(name)",
        "FlagReranker(name, trust_remote_code=given)",
        "options = {'trust_remote_code': True}",
        "options = {'weights_only': given}",
        "pd.read_pickle(path)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_would_is_found(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import UnpicklingError",
        "import numpy as np",
        "ast.literal_eval(text)",
        "re.compile(pattern)",
        "model.eval()",
        "json.load(file)",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "T5Tokenizer.from_pretrained(folder)",
        "options = {'trust_remote_code': False}",
    ],
)
def test_what_would_not_is_left_in_peace(line: str) -> None:
    assert not list(unsafe(ast.parse(line)))
