"""Rules of the house, checked on the source: import arrows, torch-free rooms, ceilings, recipes, the README's map."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "luthier"
ROOMS = (
    "config", "runs", "plan", "data", "tasks", "tokenizer", "pack", "model", "generate", "optim", "train", "post", "evals", "export",
    "serve", "stages",
)  # fmt: skip
TORCH_FREE = ROOMS[:7]
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def imports(path: Path) -> list[tuple[int, str]]:
    """Every imported module, lazy imports and type-checking imports included."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.append((node.lineno, str(node.module)))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names if node.module == "luthier"]
    return found


def test_every_folder_is_a_room() -> None:
    assert sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__") == sorted(ROOMS)


def test_import_arrows_point_down() -> None:
    wrong = []
    for path in FILES:
        here = room(path)
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] != "luthier" or len(parts) < 2 or parts[1] not in ROOMS:
                continue
            if here is None and path.name in ("cli.py", "__main__.py"):
                allowed = parts[1] == "stages"
            else:
                allowed = here is not None and ROOMS.index(parts[1]) <= ROOMS.index(here)
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_rooms_0_to_6_never_name_torch() -> None:
    heavy = {"torch", "transformers"}
    wrong = [f"{p}:{line}" for p in FILES if room(p) in TORCH_FREE for line, module in imports(p) if module.split(".")[0] in heavy]
    assert wrong == []


def test_nothing_is_pickled_and_no_text_is_run() -> None:
    """F1."""
    wrong = []
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {"torch.load", "torch.save", "torch.jit.load", "np.fromregex", "eval", "exec", "compile", "__import__", "os.system"}
    for path in FILES:
        wrong += [f"{path}:{line} imports {module}" for line, module in imports(path) if module.split(".")[0] in modules]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if (
                    name in calls
                    or named.get("allow_pickle") == "True"
                    or named.get("shell") == "True"
                    or named.get("trust_remote_code") == "True"
                ):
                    wrong.append(f"{path}:{node.lineno} calls {ast.unparse(node)[:60]}")
                if name == "np.load" and named.get("allow_pickle") != "False":
                    wrong.append(f"{path}:{node.lineno} np.load without allow_pickle=False")
    assert wrong == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", "recipes/quickstart.toml"], ["runs", "list"]])
def test_quick_verbs_do_not_import_torch(arguments: list[str]) -> None:
    code = f"import sys; from luthier.cli import call; call({arguments!r}); sys.exit(3 if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ceilings() -> None:
    wrong = []
    for path in FILES:
        text = path.read_text("utf-8")
        if text.count("\n") > 400:
            wrong.append(f"{path.relative_to(ROOT)}: more than 400 lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 80:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: more than 80 lines")
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(p) for p in FILES if p.name != "__main__.py" and not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_builds_and_counts(path: Path) -> None:
    import torch

    from luthier.config.load import load_recipe, resolve_model
    from luthier.model.decoder import Decoder
    from luthier.plan.parameters import count

    recipe = load_recipe([path])
    config = resolve_model(recipe)
    with torch.device("meta"):
        model = Decoder(config)
    built = sum(p.numel() for p in model.parameters())
    assert built == count(config)["total"]
    assert recipe.expected_params in (None, built)
    assert path.read_text("utf-8").startswith("#"), "a recipe opens with its command, hardware, expected time and result"


def test_there_are_recipes() -> None:
    assert (ROOT / "recipes" / "quickstart.toml").exists()


def test_readme_map_equals_the_tree() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.index("make demo") < readme.index("make test") < 800
    section = readme.split("## Map", 1)[1].split("\n## ", 1)[0]
    named = {line.split("`")[1].strip("/") for line in section.splitlines() if line.startswith("| `")}
    expected = {f"luthier/{name}" for name in ROOMS} | {"luthier/cli.py", "luthier/errors.py"}
    expected |= {p.name for p in ROOT.iterdir() if p.is_dir() and p.name in ("tests", "docs", "recipes", "benchmarks")}
    assert named == expected


def test_versions_agree() -> None:
    from luthier import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
