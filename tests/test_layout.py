"""Imports point one way: experiments, scripts, networks and metrics and data, dataset, common."""

import ast
import subprocess

from conftest import ROOT

FOLDERS = {"common": 0, "dataset": 1, "experiments": 4}
FILES = {"train": 3, "test": 3, "predict": 3, "pretrain": 3}  # scripts; every other file at the top is of level 2


def level_of(module: str) -> int:
    return FOLDERS[module.split(".")[0]] if module.split(".")[0] in FOLDERS else FILES.get(module, 2)


def project_files():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "*.py"], capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in listed.stdout.splitlines() if not line.startswith("tests/")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.exists()}


def imports_of(path, known):
    """The project's own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        found |= {name for name in names if name in known}
    return found


def test_imports_point_one_way():
    files = project_files()
    assert len(files) > 30
    graph = {name: imports_of(path, files) for name, path in files.items()}
    for name, imported in graph.items():
        for other in imported:
            assert level_of(other) <= level_of(name), f"{name} imports {other}, which is above it"
            is_script = FILES.get(other) == 3
            assert not is_script or level_of(name) == 4, f"{name} imports the script {other}"
    apart = ({"segnet", "pretrained"}, {"metrics"}, {"fetch_oxford_iiit_pets"})  # know nothing of each other
    for group in apart:
        others = set().union(*apart) - group
        assert not any(graph[name] & others for name in group)
    done = set()  # no circles among those of the same level
    while graph.keys() - done:
        free = {name for name in graph.keys() - done if graph[name] <= done}
        assert free, f"imports go round in a circle: {sorted(graph.keys() - done)}"
        done |= free


def test_the_top_level_shows_what_is_run_or_read():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True)
    top = {line for line in listed.stdout.splitlines() if "/" not in line and line.endswith(".py")}
    assert top >= {"fetch_oxford_iiit_pets.py", "segnet.py", "train.py", "test.py", "metrics.py"}
    assert len(top) <= 9
    folders = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    assert folders <= {"common", "dataset", "experiments", "tests", "outputs", ".ci"}
