"""What may not stand in the source of the package, found in its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator

__all__ = ["faults"]

MODULES = {
    **dict.fromkeys(("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"), "reads what runs code"),
    **dict.fromkeys(("subprocess", "pty", "multiprocessing"), "starts programs"),
    **dict.fromkeys(
        ("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "aiohttp"), "reaches out"
    ),
    **dict.fromkeys(("huggingface_hub", "webbrowser"), "reaches out"),
    **dict.fromkeys(("ctypes", "cffi", "code", "codeop", "runpy"), "runs what no reader sees"),
    **dict.fromkeys(("atexit", "signal", "yaml"), "is not for this package"),
}
HARMLESS = {"urllib.parse"}
NAMES = dict.fromkeys(("eval", "exec", "compile", "__import__", "breakpoint"), "runs code from text")
CALLS = {
    **dict.fromkeys(
        ("os.system", "os.popen", "os.fork", "os.startfile", "torch.utils.cpp_extension.load"), "starts programs"
    ),
    **dict.fromkeys(("os.chmod", "os.umask", "os.chown"), "changes permissions"),
    **dict.fromkeys(("tempfile.mktemp",), "names a file that someone else may make first"),
    **dict.fromkeys(("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"), "reads what runs code"),
    **dict.fromkeys(("torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file"), "reaches out"),
    **dict.fromkeys(("sys.settrace", "sys.setprofile", "sys.addaudithook"), "sets a hook"),
}
MUST_SAY = {
    "torch.load": ("weights_only", True),
    "Environment": ("autoescape", True),
    "jinja2.Environment": ("autoescape", True),
}
MAY_NOT_SAY = {"allow_pickle": False, "trust_remote_code": False, "shell": False, "weights_only": True}
READERS = {
    "read_pickle",
    "to_pickle",
    "unsafe_load",
    "full_load",
    "register_new_resolver",
    "register_resolver",
    "safe_globals",
}
READERS |= {"add_safe_globals", "load_from_checkpoint"}


def faults(source: str) -> Iterator[str]:
    """A line for everything in a file that may not stand there."""
    tree = ast.parse(source)
    known = _imported(tree)
    for node in ast.walk(tree):
        for module in _modules(node):
            reason = MODULES.get(module.partition(".")[0])
            if reason and module not in HARMLESS:
                yield f"line {node.lineno}: imports {module}, which {reason}"
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = _name(node, known)
            if reason := CALLS.get(name) or (NAMES.get(name) if isinstance(node, ast.Name) else None):
                yield f"line {node.lineno}: {name} {reason}"
            if name.rpartition(".")[2] in READERS or name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
                yield f"line {node.lineno}: {name} reads or runs what is not to be trusted"
        if isinstance(node, ast.Call):
            yield from _arguments(node, _name(node.func, known))


def _arguments(call: ast.Call, name: str) -> Iterator[str]:
    said = {one.arg: one.value.value if isinstance(one.value, ast.Constant) else one.value for one in call.keywords}
    if name in MUST_SAY:
        argument, value = MUST_SAY[name]
        if said.get(argument) is not value:
            yield f"line {call.lineno}: {name} must say {argument}={value}"
    for argument, value in MAY_NOT_SAY.items():
        if argument in said and said[argument] is not value:
            yield f"line {call.lineno}: {name} may not say {argument} but {value}"


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module)]
    constant = node.args[0] if isinstance(node, ast.Call) and node.args else None
    called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
    dynamic = called == "import_module" and isinstance(constant, ast.Constant)
    return [str(constant.value)] if dynamic and isinstance(constant, ast.Constant) else []


def _imported(tree: ast.AST) -> dict[str, str]:
    """What names of the file stand for, by its imports."""
    known = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def _name(node: ast.AST, known: dict[str, str]) -> str:
    """The dotted name, with the file's own abbreviations spelled out; empty where it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ".".join(reversed(parts))
    return ".".join([known.get(node.id, node.id), *reversed(parts)])
