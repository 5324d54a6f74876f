"""The source, tests included: no call that would run what a file holds."""

import ast
from collections.abc import Iterator

import pytest

from experiments.launch import ROOT

FILES = [ROOT / "train.py", ROOT / "evaluate.py"]
FILES += sorted(path for room in ("data", "rerankers", "experiments", "tests") for path in (ROOT / room).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}
CLOSED = ("torch.hub", "torch.jit", "torch.package", "torch.serialization")  # nothing here needs any of these
LOADERS = {  # of a module, whatever it is called here
    "torch": {"load"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "numpy": {"load"},
    "os": {"system", "popen"},
    "pandas": {"read_pickle"},
    "hydra": {"utils"},
    "hydra.utils": {"call"},
    "builtins": {"eval", "exec", "compile", "__import__"},
}
ANYWHERE = {"exec_module", "load_module", "instantiate"}  # of whatever module or object
EXCEPTIONS = {  # both run a file of this repository
    ("experiments/endurance/killed.py", "imports runpy"),  # train.py, in a process that is to die
    ("tests/test_readme_vi.py", "spec.loader.exec_module"),  # the script that a guide gives
}
SHORT = {"np": "numpy", "pd": "pandas"}
SAFE = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False, "shell": False}
NEEDED = {("torch", "load"): "weights_only", ("numpy", "load"): "allow_pickle"}
# besides from_pretrained of anything but a class named in the source, which needs no code to be looked for
BUILD_FROM_FOLDERS = {"CrossEncoder", "PairEncoder", "FlagReranker", "SentenceTransformer", "pipeline"}


def safe(keyword: str, value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is SAFE[keyword]


def closed(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{module}." for module in CLOSED))


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    names = [] if isinstance(node, ast.Import) else [alias.name for alias in node.names]
    if names != ["UnpicklingError"]:  # to say that a pickle was refused
        yield from (f"imports {module}" for module in modules if module.split(".")[0] in MODULES)
    wholes = [f"{modules[0]}.{name}" for name in names] or modules
    yield from (f"imports {whole}" for whole in wholes if closed(whole))
    for name in names:
        everything = name == "*" and modules[0] in LOADERS
        if everything or name in ANYWHERE or name in LOADERS.get(modules[0], ()):
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
    if name in ANYWHERE:
        yield whole
    elif name in LOADERS.get(module, ()):
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
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in CLOSED:
            yield node.lineno, ast.unparse(node)


def test_nothing_would_run_a_file() -> None:
    assert len(FILES) > 250
    found = [
        (str(path.relative_to(ROOT)), line, what)
        for path in FILES
        for line, what in unsafe(ast.parse(path.read_text()))
    ]
    assert [one for one in found if (one[0], one[2]) not in EXCEPTIONS] == []
    assert {(path, what) for path, _, what in found} == EXCEPTIONS, "each is still one"


# What is below is source text that `ast` takes apart: no line of it is run.
IMPORTS = {  # line -> what is found in it
    "import pickle": "imports pickle",
    "import pickle as harmless": "imports pickle",
    "from pickle import loads": "imports pickle",
    "from pickle import UnpicklingError, loads": "imports pickle",
    "from joblib import load": "imports joblib",
    "from torch import load": "imports load of torch",
    "from torch import hub": "imports torch.hub",
    "from torch import serialization": "imports torch.serialization",
    "from torch import jit as harmless": "imports torch.jit",
    "from torch.jit import *": "imports torch.jit.*",
    "from torch.serialization import load as harmless": "imports torch.serialization.load",
    "import torch.jit": "imports torch.jit",
    "import torch.jit as harmless": "imports torch.jit",
    "import torch as t": "calls torch t",
    "from numpy import *": "imports * of numpy",
    "from numpy import load": "imports load of numpy",
    "import numpy as n": "calls numpy n",
    "from yaml import *": "imports * of yaml",
    "from yaml import load": "imports load of yaml",
    "from hydra import utils": "imports utils of hydra",
    "from hydra.utils import instantiate as harmless": "imports instantiate of hydra.utils",
    "from hydra.utils import call": "imports call of hydra.utils",
    "import hydra as h": "calls hydra h",
    "import hydra.utils as u": "calls hydra.utils u",
    "from os import system": "imports system of os",
}
CALLS = {  # what is called -> what it is given, each of which makes it unsafe
    "eval": ["'1'"],
    "exec": ["code"],
    "compile": ["text, name, 'exec'"],
    "builtins.eval": ["'1'"],
    "os.popen": ["line"],
    "pd.read_pickle": ["path"],
    "torch.load": ["path", "path, weights_only=False", "path, weights_only=given"],
    "np.load": ["path", "path, allow_pickle=True", "path, allow_pickle=given"],
    "yaml.load": ["text, Loader=yaml.Loader", "text, Loader=yaml.SafeLoader"],
    "yaml.unsafe_load": ["text"],
    "yaml.full_load_all": ["text"],
    "hydra.utils.instantiate": ["node"],
    "hydra.utils.call": ["node"],
    "instantiate": ["node"],
    "spec.loader.exec_module": ["module"],
    "importlib.machinery.SourceFileLoader('a', path).load_module": [""],
}
CODE = {  # what builds a model from a folder -> what it is given, none of which keeps the folder's code from running
    "AutoModel.from_pretrained": ["name", "name, **options", "name, trust_remote_code=True"],
    "CLASSES[kind].from_pretrained": ["name"],
    "CrossEncoder": ["name"],
    "FlagReranker": ["name, trust_remote_code=given"],
}
ELSEWHERE = {
    "torch.hub.load(name)": "torch.hub",
    "torch.jit.load(path)": "torch.jit",
    "jit = torch.jit": "torch.jit",
    "torch.serialization.load(path)": "torch.serialization",
    "torch.package.PackageImporter(path)": "torch.package",
    "reader(path, allow_pickle=True)": "allow_pickle=True",
    "options = {'trust_remote_code': True}": "trust_remote_code: True",
    "options = {'weights_only': given}": "weights_only: given",
    "subprocess.run(line, shell=True)": "shell=True",
}


def keyword(given: str) -> list[str]:
    """The last that is given, where it is one of SAFE: it is found too."""
    last = given.rpartition(", ")[2]
    return [last] if last.partition("=")[0] in SAFE else []


def found(line: str) -> list[str]:
    return [what for _, what in unsafe(ast.parse(line))]


@pytest.mark.parametrize("line", [*IMPORTS, *ELSEWHERE])
def test_what_would_is_found(line: str) -> None:
    assert found(line) == [(IMPORTS | ELSEWHERE)[line]]


@pytest.mark.parametrize(("called", "given"), [(called, given) for called in CALLS for given in CALLS[called]])
def test_a_call_that_would_is_found(called: str, given: str) -> None:
    assert found(f"{called}({given})") == [called, *keyword(given)]


@pytest.mark.parametrize(("called", "given"), [(called, given) for called in CODE for given in CODE[called]])
def test_a_model_that_may_bring_code_is_found(called: str, given: str) -> None:
    assert found(f"{called}({given})") == [*keyword(given), f"{called} without trust_remote_code=False"]


@pytest.mark.parametrize(
    "line",
    [
        "from pickle import UnpicklingError",
        "import numpy as np",
        "import torch.nn.functional as F",
        "from hydra.utils import get_class",
        "from torch import nn",
        "importlib.util.spec_from_file_location(name, path)",
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
    assert found(line) == []
