"""The contract of docs/architecture.md on imports, read from syntax trees; what `import xpcnn` costs."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import xpcnn

PACKAGE = Path(xpcnn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

DIRECT = {
    "errors": set(),
    "arguments": {"errors"},
    "lazy": set(),
    "plugins": {"errors"},
    "backend": {"arguments", "plugins"},
    "io": {"backend"},
    "ops": {"backend", "io", "plugins"},
    "nn": {"ops"},
    "models": {"nn"},
    "optim": {"nn"},
    "data": {"arguments", "lazy", "plugins"},
    "train": {"models", "optim", "data"},
    "viz": {"train"},
    "scratch": {"train"},
    "cli": {"viz", "scratch"},
    "__main__": {"cli"},
    "testing": {"ops", "nn"},
}
"""Which packages each may import; with what those may import in turn."""

BACKEND_ONLY = {"cupy", "torch", "array_api_compat", "array_api_extra", "array_api_strict", "cudnn"}
NOT_INSTALLED = {"benchmarks", "tests"}
WITHOUT_NUMPY = {"ops", "nn", "models", "optim"}
CURRENT_BACKEND = {"asarray", "get_backend", "set_backend", "use_backend"}
"""What asks for, or changes, the backend that creates new arrays."""

MODULE_NAMES = {"__all__", "__dir__", "__getattr__", "__version__"}

LINES, MOST_LINES = 300, 350

NEVER_AT_IMPORT = {
    "PIL",
    "array_api_compat",
    "array_api_extra",
    "array_api_strict",
    "cudnn",
    "cupy",
    "matplotlib",
    "onnx",
    "pooch",
    "requests",
    "safetensors",
    "threadpoolctl",
    "torch",
    "tqdm",
}


def allowed(package):
    """Everything `package` may import, itself included."""
    return {package}.union(*map(allowed, DIRECT[package]))


def imports(tree, module, is_package):
    """The name and line of every import, those inside functions and `importlib.import_module("…")` included.

    ``from xpcnn import nn`` and ``import xpcnn.nn`` both import xpcnn.nn.
    """
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: (1 if is_package else 0) - node.level or None]
                base = ".".join([*parents, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        else:
            continue
        yield from ((name, node.lineno) for name in names)


def violations(source, module, *, is_package=False):
    """What `source`, the text of `module`, does against the contract."""
    tree = ast.parse(source)
    if module == "xpcnn":
        return face_violations(tree)
    package = module.split(".")[1]
    if package not in DIRECT:
        return [f"{module}: package {package!r} is not in the design"]
    found = []
    for name, line in imports(tree, module, is_package):
        top, *rest = name.split(".")
        where = f"{module}:{line}: imports {name}; "
        if top == "xpcnn":
            target = rest[0] if rest else ""
            if target == "__version__":
                continue
            if target not in DIRECT:
                found.append(f"{where}only the user imports the public face")
            elif target not in allowed(package):
                found.append(f"{where}{package} may import only {sorted(allowed(package))}")
            elif package == "ops" and rest[-1] in CURRENT_BACKEND:
                found.append(f"{where}ops take their backend from their arrays")
        elif top in BACKEND_ONLY and package != "backend":
            found.append(f"{where}only xpcnn.backend names it")
        elif top in NOT_INSTALLED:
            found.append(f"{where}it is not installed with the package")
        elif top == "numpy" and package in WITHOUT_NUMPY:
            found.append(f"{where}{package} takes its namespace from its arrays")
    if package == "ops":
        found += [
            f"{module}:{node.lineno}: uses get_backend; ops take their backend from their arrays"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "get_backend"
        ]
    length = len(source.splitlines())
    if length > MOST_LINES:
        found.append(f"{module}: {length} lines; a file that is read in one go has about {LINES}: split it")
    return found


def face_violations(tree):
    """What `xpcnn/__init__.py` holds beside a docstring, imports and a module's own names."""

    def fits(node):
        if isinstance(node, ast.Assign):
            return all(ast.unparse(target) in MODULE_NAMES for target in node.targets)
        if isinstance(node, ast.FunctionDef):
            return node.name in MODULE_NAMES
        if isinstance(node, ast.If):
            return ast.unparse(node.test) == "TYPE_CHECKING" and all(map(fits, node.body))
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return is_docstring or isinstance(node, ast.Import | ast.ImportFrom)

    return [
        f"xpcnn:{node.lineno}: the public face only imports; define this elsewhere"
        for node in tree.body
        if not fits(node)
    ]


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_contract():
    found = [
        each
        for path in FILES
        for each in violations(path.read_text("utf-8"), module_name(path), is_package=path.stem == "__init__")
    ]
    assert not found, "\n".join(found)


def test_no_circle_of_imports():
    """Imports inside functions count as well, since they can hide one."""
    modules = {module_name(path): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        graph[module] = set()
        for name, _ in imports(tree, module, path.stem == "__init__"):
            while name and name not in modules:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", "xpcnn", module}
    graphlib.TopologicalSorter(graph).prepare()


# The checker itself can fail ----------------------------------------------------------------------------

WRONG = [
    ("xpcnn.ops.linear", "from xpcnn import errors, nn"),
    ("xpcnn.backend.base", "import xpcnn.ops.conv"),
    ("xpcnn.ops.conv.columns", "from ...nn import layer"),
    ("xpcnn.ops", "from .. import nn"),
    ("xpcnn.nn.layer", "def f():\n    from xpcnn.train import Trainer"),
    ("xpcnn.nn.layer", "importlib.import_module('xpcnn.train')"),
    ("xpcnn.io.weights", "from xpcnn.nn import Layer"),
    ("xpcnn.data.loader", "from xpcnn.backend import asarray"),
    ("xpcnn.cli.bench", "from benchmarks import peak_memory"),
    ("xpcnn.train.trainer", "from xpcnn.testing import gradcheck"),
    ("xpcnn.train.trainer", "import xpcnn"),
    ("xpcnn.train.trainer", "from xpcnn import asarray"),
    ("xpcnn.utils.misc", "x = 1"),
    ("xpcnn.cli.bench", "import torch"),
    ("xpcnn.io.torch_names", "torch = __import__('torch')"),
    ("xpcnn.ops.conv.executor", "import cupy.cuda"),
    ("xpcnn.train.trainer", "import array_api_compat.numpy as xp"),
    ("xpcnn.ops.loss", "from array_api_extra import one_hot"),
    ("xpcnn.ops.loss", "import numpy as np"),
    ("xpcnn.models.vgg", "def f():\n    from numpy.random import default_rng"),
    ("xpcnn.ops.dropout", "from xpcnn.backend import asarray"),
    ("xpcnn.ops.dropout", "from xpcnn import backend\nb = backend.get_backend()"),
    ("xpcnn.ops.dropout", "x = 1\n" * (MOST_LINES + 1)),
    ("xpcnn", "from xpcnn import nn\ndef f(): ..."),
    ("xpcnn", "__version__ = '1'\nDEBUG = False"),
    ("xpcnn", "'A docstring.'\nprint()"),
]

RIGHT = [
    ("xpcnn.nn.layer", "from xpcnn.errors import ShapeError\nfrom xpcnn import ops"),
    ("xpcnn.ops.conv.columns", "from .geometry import ConvGeometry\nfrom ..op import pair"),
    ("xpcnn.ops", "from . import conv\nfrom ..backend import namespace"),
    ("xpcnn.nn.layer", "def save():\n    from xpcnn.io import save_arrays"),
    ("xpcnn.train.trainer", "import numpy\nfrom xpcnn import data, io, models, optim, __version__"),
    ("xpcnn.cli.main", "import numpy\nfrom xpcnn import io, models, ops, optim, scratch, train, viz"),
    ("xpcnn.testing.compare", "import numpy as np\nfrom xpcnn.backend import to_numpy"),
    ("xpcnn.backend._torch", "def f():\n    import torch, array_api_compat.torch"),
    ("xpcnn.viz.plot", "import torchlike, numpydoc"),
    ("xpcnn", "'A docstring.'\nfrom xpcnn import nn\n__version__ = '1'\n__all__ = ['nn']"),
    ("xpcnn.ops.dropout", "x = 1\n" * MOST_LINES),
]


@pytest.mark.parametrize(("fits", "cases"), [(False, WRONG), (True, RIGHT)])
def test_checker(fits, cases):
    for module, source in cases:
        found = violations(source, module, is_package=module in ("xpcnn", "xpcnn.ops"))
        assert (not found) == fits, (module, source)


# What `import xpcnn` does -------------------------------------------------------------------------------


def run_python(code, *options):
    """What `code` prints in a fresh interpreter that finds this xpcnn."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{code}"
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement):
    """Which of NEVER_AT_IMPORT a statement loads."""
    tops = run_python(f"{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})").split()
    return NEVER_AT_IMPORT.intersection(tops)


@pytest.mark.process
def test_import_loads_no_heavy_library():
    scratch = "layers, mnist, trainer, util, gradient, simple_convnet, deep_convnet"
    for statement in ("import xpcnn", "import xpcnn.data", f"from xpcnn.scratch import {scratch}"):
        assert loaded_by(statement) == set()
    assert loaded_by("import xpcnn, array_api_compat") == {"array_api_compat"}  # the test can fail


MOST_MODULES = 70
"""That `import xpcnn` may load beyond NumPy's."""

COUNT = """
import numpy
before = set(sys.modules)
{}
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.process
def test_import_loads_few_modules():
    loaded = run_python(COUNT.format("import xpcnn")).split()
    own = [name for name in loaded if name.partition(".")[0] == "xpcnn"]
    others = {name.partition(".")[0] for name in loaded} - {"xpcnn"}
    assert "xpcnn.backend" in own
    assert len(loaded) <= MOST_MODULES, loaded
    assert others <= sys.stdlib_module_names, others
    assert len(run_python(COUNT.format("import xpcnn.train")).split()) > MOST_MODULES  # the test can fail


@pytest.mark.process
@pytest.mark.parametrize(
    "statement",
    [
        "import xpcnn; [getattr(xpcnn, name) for name in xpcnn.__all__]",
        "from xpcnn import *; nn.Conv2d; Trainer",
        "import xpcnn; xpcnn.data.augment.parse('crop=2')",
        "import xpcnn.ops, xpcnn; assert xpcnn.conv_algorithm is xpcnn.ops.conv_algorithm",
        "import copy, pickle, xpcnn; pickle.loads(pickle.dumps(copy.deepcopy(xpcnn.nn.Linear(1, 1))))",
    ],
)
def test_what_loads_at_first_use(statement):
    run_python(statement)


def test_names():
    assert dir(xpcnn) == xpcnn.__all__ == sorted(xpcnn.__all__)
    for name in ("nothing", "torch", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(xpcnn, name)
