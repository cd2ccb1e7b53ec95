"""Rules checked on the source: imports, no work at import time, tests and documentation of everything public."""

import ast
import doctest
import inspect
import re
import sys
from pathlib import Path

import keras
import numpy
import pytest

import keras_cnns

ROOT = Path(__file__).parent.parent
FOLDERS = ("keras_cnns", "training", "tuning", "docs", "tests")  # a folder may import itself and those before it
PACKAGE = ROOT / "keras_cnns"

# {module of keras_cnns: the modules of keras_cnns that it may import}; modules that are not listed are papers.
HELPERS = {
    "layers": {"layers"},
    "_blocks": {"layers"},
    "_builder": {"published"},
    "_model": {"checkpoints", "preprocessing", "published"},
    "checkpoints": {"layer_names", "preprocessing"},
    "coefficients": set(),
    "complexity": {"layer_names"},
    "conversion": {"checkpoints", "preprocessing"},
    "decoding": set(),
    "features": {"_model", "layer_names", "preprocessing"},
    "folding": {"layers", "preprocessing"},
    "layer_names": set(),
    "preprocessing": set(),
    "published": {"checkpoints", "conversion", "preprocessing"},
}
PAPERS = {path.stem for path in PACKAGE.glob("*.py")} - HELPERS.keys() - {"__init__", "catalogue"}
PARENTS = {
    "resnet_cifar": {"resnet"},
    "senet": {"resnet", "googlenet"},
    "efficientnet": {"coefficients"},
    "efficientnet_lite": {"efficientnet"},
    "deformable": {"resnet"},
}
MAY_IMPORT = (
    HELPERS
    | {paper: {"layers", "_blocks", "_builder", "_model"} | PARENTS.get(paper, set()) for paper in PAPERS}
    | {"catalogue": {"_builder", "published"} | PAPERS, "__init__": {"catalogue"} | HELPERS.keys() | PAPERS}
)

# {source file without a tests/test_<file>.py: where it is tested}
TESTED_IN = {
    "docs/run_commands.py": "test_docs.py",
    "keras_cnns/__init__.py": "test_house_rules.py",
    "keras_cnns/_blocks.py": "test_resnet.py",
    "keras_cnns/_builder.py": "test_model.py",
    "keras_cnns/coefficients.py": "test_efficientnet.py",
    "keras_cnns/efficientnet_lite.py": "test_efficientnet.py",
    "keras_cnns/layers/__init__.py": "test_house_rules.py",
    "keras_cnns/conversion.py": "test_convert.py",
    "keras_cnns/layers/convolution_forms.py": "test_conv2d.py",
    "keras_cnns/layers/recomputation.py": "test_densenet.py",
    "training/__main__.py": "test_cli.py",
    "training/batches.py": "test_data.py",
    "training/benchmarks/__init__.py": "test_benchmark.py",
    "training/benchmarks/convolutions.py": "test_benchmark.py",
    "training/benchmarks/frame.py": "test_benchmark.py",
    "training/benchmarks/ours.py": "test_benchmark.py",
    "training/benchmarks/parts.py": "test_benchmark.py",
    "training/benchmarks/peers.py": "test_benchmark.py",
    "training/benchmarks/report.py": "test_benchmark.py",
    "training/dashboards/__init__.py": "test_dashboards.py",
    "training/dashboards/hparams.py": "test_dashboards.py",
    "training/dashboards/log.py": "test_dashboards.py",
    "training/dashboards/reliability.py": "test_calibration.py",
    "training/digits.py": "test_data.py",
    "training/errors.py": "test_command_line.py",
    "training/evaluation.py": "test_loop.py",
    "training/forward.py": "test_run.py",
    "training/image_file.py": "test_check_data.py",
    "training/inference.py": "test_run.py",
    "training/run_folder.py": "test_run.py",
    "training/runtimes.py": "test_formats.py",
    "training/intervals.py": "test_studies.py",
    "training/mnist5k.py": "test_data.py",
    "training/step.py": "test_loop.py",
    "training/studies/__init__.py": "test_studies.py",
    "training/studies/backbone.py": "test_studies.py",
    "training/studies/bottleneck.py": "test_studies.py",
    "training/studies/boxes.py": "test_studies.py",
    "training/studies/branches.py": "test_studies.py",
    "training/studies/closing.py": "test_studies.py",
    "training/studies/degradation.py": "test_studies.py",
    "training/studies/depth_cost.py": "test_studies.py",
    "training/studies/drawing.py": "test_studies.py",
    "training/studies/frame.py": "test_studies.py",
    "training/studies/frontier.py": "test_studies.py",
    "training/studies/gates.py": "test_studies.py",
    "training/studies/gradients.py": "test_studies.py",
    "training/studies/heads.py": "test_studies.py",
    "training/studies/lesions.py": "test_studies.py",
    "training/studies/offsets.py": "test_studies.py",
    "training/studies/pointwise.py": "test_studies.py",
    "training/studies/probing.py": "test_studies.py",
    "training/studies/receptive_fields.py": "test_studies.py",
    "training/studies/reuse.py": "test_studies.py",
    "tuning/__main__.py": "test_tuning.py",
    "tuning/figure.py": "test_dimensions.py",
    "tuning/folder.py": "test_search.py",
    "tuning/oracles.py": "test_search.py",
    "tuning/report.py": "test_search.py",
    "tuning/scale.py": "test_compound.py",
    "tuning/spaces.py": "test_recipe_search.py",
    "tuning/study.py": "test_search.py",
}

# The modules of training, floor by floor from the ground: a module may import those on lower floors only.
FLOORS = (
    (
        "benchmarks",
        "calibration",
        "digits",
        "errors",
        "forward",
        "interruption",
        "intervals",
        "optimization",
        "pixels",
        "studies",
    ),
    ("mnist5k",),
    ("augment", "devices", "files", "image_file", "launch", "measure", "onednn", "recipe", "runtimes", "scaling"),
    ("state", "step"),
    ("batches", "checkpoint", "command_line", "convert", "dashboards.log", "data_record", "export"),
    (
        "dashboards.graph",
        "dashboards.hparams",
        "dashboards.pictures",
        "dashboards.probes",
        "dashboards.profiling",
        "dashboards.reliability",
    ),
    ("benchmarks.frame", "dashboards.scalars", "evaluation", "image_folder", "run_folder"),
    ("dashboards", "data", "finetuning", "loop", "recipes"),
    ("check_data", "datasets", "inference", "machine", "published"),
    ("compare", "formats", "run"),
    ("benchmarks.convolutions", "benchmarks.ours", "group"),
    ("studies.drawing", "studies.frame", "studies.probing"),
    ("studies.backbone", "studies.bottleneck", "studies.boxes", "studies.closing", "studies.degradation"),
    ("studies.depth_cost", "studies.frontier", "studies.gates", "studies.gradients", "studies.heads"),
    ("studies.branches", "studies.lesions", "studies.offsets", "studies.pointwise", "studies.receptive_fields"),
    ("studies.reuse", "studies.scaling"),
    ("benchmarks.peers",),
    ("benchmarks.parts",),
    ("benchmarks.report",),
    ("__main__",),
)


def sources(*folders):
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def imports(nodes):
    """Yield the dotted names of import statements: "a.b" for `import a.b` and for `from a import b`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the import in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def everywhere(path):
    return ast.walk(ast.parse(path.read_text()))


def at_import(node):
    """Yield the nodes that run when the module is imported: all but the bodies of functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


@pytest.mark.parametrize("path", sources(*FOLDERS))
def test_folders_import_in_one_direction(path):
    folder = path.relative_to(ROOT).parts[0]
    later = FOLDERS[FOLDERS.index(folder) + 1 :]
    assert not [name for name in imports(everywhere(path)) if name.split(".")[0] in later]


def test_every_source_file_has_its_test():
    """Either tests/test_<file>.py or an entry in `TESTED_IN`, which has no others."""
    tests = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    paths = [path for folder in FOLDERS[:-1] for path in (ROOT / folder).rglob("*.py")]
    with_code = [path for path in paths if len(ast.parse(path.read_text()).body) > 1]
    without = {str(path.relative_to(ROOT)) for path in with_code if f"test_{path.stem.lstrip('_')}.py" not in tests}
    assert without == TESTED_IN.keys()
    assert set(TESTED_IN.values()) <= tests


@pytest.mark.parametrize("path", sources("keras_cnns"))
def test_modules_of_keras_cnns_import_in_one_direction(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {name.partition(".")[2].split(".")[0] for name in imports(everywhere(path)) if name.startswith("keras_cnns")}
    assert ours <= MAY_IMPORT[module]


FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
IN_TRAINING = {
    ".".join(path.relative_to(ROOT / "training").with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "training").rglob("*.py")
    if path != ROOT / "training" / "__init__.py"
}


def module_of(name):
    """Return the module of training that a dotted name is in, as `FLOORS` has it: "dashboards.log" for
    "training.dashboards.log.Board"; None for any other name."""
    words = name.split(".")
    names = [".".join(words[1:end]) for end in (3, 2)] if words[0] == "training" else []
    return next((module for module in names if module in IN_TRAINING), None)


def test_every_module_of_training_is_on_one_floor():
    assert sorted(module for floor in FLOORS for module in floor) == sorted(IN_TRAINING)


@pytest.mark.parametrize("module", IN_TRAINING)
def test_modules_of_training_import_lower_floors_only(module):
    used = set(map(module_of, imports(everywhere(IN_TRAINING[module])))) - {None}
    assert not [name for name in used if FLOOR_OF[name] >= FLOOR_OF[module]]


@pytest.mark.parametrize("module", ["run_folder", "recipes", "command_line"])
def test_recipes_and_run_folders_need_neither_tensorflow_nor_networks(module):
    """Nor does anything that they import; what a function imports counts when it is called."""
    found, waiting = set(), [module]
    while waiting:
        names = set(imports(at_import(ast.parse(IN_TRAINING[waiting.pop()].read_text()))))
        waiting += [other for name in names - found if (other := module_of(name))]
        found |= names
    assert not {name.split(".")[0] for name in found} & {"tensorflow", "keras", "keras_cnns"}


@pytest.mark.parametrize("path", sources("keras_cnns"))
def test_keras_cnns_needs_only_keras_numpy_and_safetensors(path):
    roots = {name.split(".")[0] for name in imports(at_import(ast.parse(path.read_text())))}
    assert roots <= {"keras_cnns", "keras", "numpy", "safetensors"} | sys.stdlib_module_names
    anywhere = {name.split(".")[0] for name in imports(everywhere(path))}
    assert anywhere <= roots | {"tensorflow", "huggingface_hub"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", sources("training", "tuning"))
def test_only_public_names_are_used_in_other_folders(path):
    folder = path.relative_to(ROOT).parts[0]
    nodes = list(everywhere(path))
    used = {name for name in imports(nodes) if name.split(".")[0] in FOLDERS and name.split(".")[0] != folder}
    used |= {
        f"keras_cnns.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "keras_cnns"
    }
    public = {"keras_cnns"} | {f"keras_cnns.{name}" for name in keras_cnns.__all__}
    public |= {f"keras_cnns.layers.{name}" for name in keras_cnns.layers.__all__}
    assert {name for name in used if name.startswith("keras_cnns")} <= public
    assert not [name for name in used if "._" in name]


# A __main__.py is a program, which is not imported.
@pytest.mark.parametrize("path", [p for p in sources(*FOLDERS[:3]) if not p.id.endswith("__main__.py")])
def test_nothing_happens_at_import_time(path):
    module = ast.parse(path.read_text())
    passive = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
    for node in module.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_main = isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__ ")
        assert isinstance(node, passive) or is_docstring or is_main, f"line {node.lineno}: {ast.unparse(node)[:80]}"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [ast.unparse(n.func) for n in at_import(node) if isinstance(n, ast.Call)]
            assert not [call for call in calls if call.split(".")[0] in ("keras", "tf", "tfds", "open", "print")]


@pytest.mark.parametrize("path", sources(*FOLDERS[:3]))
def test_no_lambda_layer(path):
    """A Lambda layer cannot be saved safely, since its code is in the file."""
    assert not [n.lineno for n in everywhere(path) if "Lambda" in (getattr(n, "attr", ""), getattr(n, "id", ""))]
    assert not [name for name in imports(everywhere(path)) if name.endswith(".Lambda")]


TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", [*sources(*FOLDERS[:3]), *(pytest.param(text, id=text.name) for text in TEXTS)])
def test_no_machine_paths(path):
    assert not re.findall(r"(?<![\w~.])/(?:work|root|tmp)\b.*", path.read_text())


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_papers_are_cited_and_deviations_listed(paper):
    doc = ast.get_docstring(ast.parse((PACKAGE / f"{paper}.py").read_text()))
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|\b[A-Z][A-Za-z]{3,} (19|20)\d\d\b", doc)
    assert "Deviations" in doc


PUBLIC = {name: getattr(keras_cnns, name) for name in keras_cnns.__all__ if name != "layers"}
PUBLIC |= {f"layers.{name}": getattr(keras_cnns.layers, name) for name in keras_cnns.layers.__all__}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    thing = PUBLIC[name]
    doc = inspect.getdoc(thing)
    described, example = doc.partition("Args:")[2], doc.partition("Example:")[2]
    # An inherited constructor is documented by the parent class in Keras.
    inherited = inspect.isclass(thing) and "__init__" not in vars(thing)
    parameters = () if inherited else inspect.signature(thing).parameters.values()
    arguments = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    assert not [argument for argument in arguments if not re.search(rf"^\s+{argument}: \S", described, re.MULTILINE)]
    assert ">>> " in example
    if "raise " in inspect.getsource(inspect.unwrap(thing)):
        assert "Raises:" in doc


@pytest.mark.parametrize("path", sources("keras_cnns"))
def test_only_arguments_of_the_function_are_documented(path):
    for function in everywhere(path):
        if not isinstance(function, ast.FunctionDef):
            continue
        section = (ast.get_docstring(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
        parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
        assert set(re.findall(r"^    (\w+):", section, re.MULTILINE)) <= parameters, function.name


def test_every_layer_is_public():
    modules = [ast.parse(path.read_text()) for path in (PACKAGE / "layers").glob("*.py")]
    classes = {node.name for module in modules for node in module.body if isinstance(node, ast.ClassDef)}
    assert {name for name in classes if not name.startswith("_")} == set(keras_cnns.layers.__all__)


# The examples of all builders are generated by the same function; two builders are enough.
EXAMPLES = [name for name in PUBLIC if name not in keras_cnns.list_models()] + ["GoogLeNet", "ResNet18"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"keras_cnns": keras_cnns, "keras": keras, "numpy": numpy}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(PUBLIC[name]), names, name, None, None)
    report = []
    result = doctest.DocTestRunner().run(example, out=report.append)
    assert result.attempted and not result.failed, "".join(report)
